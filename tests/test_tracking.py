"""Rows go to metrics.jsonl always, and to a real offline wandb run when that is asked for."""

from pathlib import Path

import pytest
from results import RESULT

from pas.compose import compose
from pas.runs import open_run, read_metrics, run_folder
from pas.tracking import track

ROWS = [{"stage": stage, "step": step, "loss": 1.0 / step} for stage in ("search", "finetune") for step in (1, 2)]


def test_without_a_logger_only_the_file(tmp_path: Path):
    config = compose([f"paths.runs={tmp_path}"])
    with open_run(config) as run, track(run, config) as tracker:
        for row in ROWS:
            tracker.log(row)
        tracker.finish(RESULT)
    assert read_metrics(run.folder) == ROWS
    assert not (run.folder / "wandb").exists()


@pytest.mark.filterwarnings("ignore::DeprecationWarning:wandb.*", "ignore::ResourceWarning")
def test_wandb_offline_mirrors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("WANDB_SILENT", "true")
    config = compose([f"paths.runs={tmp_path}", "logger=wandb"])
    for start in (1, 2):  # every start is a segment of its own
        with open_run(config) as run, track(run, config) as tracker:
            for row in ROWS:
                tracker.log(row)
            assert tracker.mirror.group == run.key.rpartition("-s")[0]
            tracker.finish(RESULT)
            assert tracker.mirror.summary["top1"] == RESULT["searched"]["top1"]
            assert tracker.mirror.summary["dense/macs"] == RESULT["dense"]["macs"]
        segments = list((run.folder / "wandb").glob("offline-run-*"))
        assert len(segments) == start
    assert read_metrics(run.folder) == ROWS
    assert all(file.stat().st_size > 0 for segment in segments for file in segment.glob("run-*.wandb"))


def test_wandb_is_closed_when_the_run_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    import wandb

    monkeypatch.setenv("WANDB_SILENT", "true")
    config = compose([f"paths.runs={tmp_path}", "logger=wandb", "logger.mode=disabled"])

    def stop_halfway() -> None:
        with open_run(config) as run, track(run, config) as tracker:
            tracker.log(ROWS[0])
            assert wandb.run is not None
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        stop_halfway()
    assert wandb.run is None
    assert read_metrics(run_folder(config)) == ROWS[:1]
