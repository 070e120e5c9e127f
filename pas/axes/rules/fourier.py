"""Fourier transforms and complex numbers: what is transformed stays whole, all other dimensions pass."""

from __future__ import annotations

import torch
from torch import fx

from pas.axes.rules.elementwise import pointwise
from pas.axes.rules.table import RULES, rule
from pas.axes.trace import Trace, Type

aten = torch.ops.aten


@rule(aten.fft_fft, aten.fft_ifft, aten.fft_rfft, aten.fft_irfft, aten.fft_hfft, aten.fft_ihfft)
def transform(trace: Trace, node: fx.Node) -> Type:
    """Along one dimension, the last unless `dim` says another."""
    return _whole(trace, node, [-1 if (dim := trace.named(node, "dim")) is None else dim])


@rule(aten.fft_fft2, aten.fft_ifft2, aten.fft_rfft2, aten.fft_irfft2)
def transform_plane(trace: Trace, node: fx.Node) -> Type:
    """Along two dimensions, the last ones unless `dim` says others."""
    return _whole(trace, node, trace.named(node, "dim") or [-2, -1])


@rule(aten.fft_fftn, aten.fft_ifftn, aten.fft_rfftn, aten.fft_irfftn)
def transform_space(trace: Trace, node: fx.Node) -> Type:
    """Along the dimensions in `dim`; else as many of the last as sizes are given, or all."""
    source, sizes, dims = trace[trace.arguments(node, 1)[0]], trace.named(node, "s"), trace.named(node, "dim")
    return _whole(trace, node, dims or range(-len(source if sizes is None else sizes), 0))


@rule(aten.fft_fftshift, aten.fft_ifftshift)
def turn(trace: Trace, node: fx.Node) -> Type:
    """Places move along the dimensions in `dim`, or along all."""
    return _whole(trace, node, trace.named(node, "dim") or range(len(trace[trace.arguments(node, 1)[0]])))


@rule(aten.view_as_complex)
def to_complex(trace: Trace, node: fx.Node) -> Type:
    """``(..., 2)`` become ``(...)``: the pairs stay whole."""
    return _whole(trace, node, [-1])[:-1]


@rule(aten.view_as_real)
def to_real(trace: Trace, node: fx.Node) -> Type:
    """``(...)`` become ``(..., 2)``."""
    return (*trace[trace.arguments(node, 1)[0]], None)


for _operator in (aten.real, aten.imag, aten.complex, aten.polar, aten._conj, aten.conj, aten.resolve_conj, aten.resolve_neg, aten.abs,
                  aten.angle):  # fmt: skip
    RULES[_operator] = pointwise


def _whole(trace: Trace, node: fx.Node, dims: list[int] | range) -> Type:
    """The type of the first argument, these dimensions frozen."""
    source = list(trace[trace.arguments(node, 1)[0]])
    for dim in dims:
        trace.freeze([source[dim]], node, "frequencies of it")
        source[dim] = None
    return tuple(source)
