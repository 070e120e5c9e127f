"""Under which terms the data comes that networks are trained on, as its makers say; the one place for it."""

LICENCES = {
    "digits": "CC BY 4.0 (E. Alpaydin and C. Kaynak, Optical Recognition of Handwritten Digits, UCI Machine Learning Repository)",
    "fashion_mnist": "MIT (Zalando SE, Fashion-MNIST)",
    "cifar10": "none stated; its authors ask to cite A. Krizhevsky, Learning Multiple Layers of Features from Tiny Images, 2009",
    "cifar100": "none stated; its authors ask to cite A. Krizhevsky, Learning Multiple Layers of Features from Tiny Images, 2009",
}
UNKNOWN = "not known: ask who made it"


def licence(data: str) -> str:
    """Of the data set `data`."""
    return LICENCES.get(data, UNKNOWN)
