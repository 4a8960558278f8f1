"The network of the digits, for this package and for peers in other environments: torch alone"
from torch import nn

def digits_net():
    "Three convolutions with BatchNorm, and a linear head"
    block = lambda i, o: [nn.Conv2d(i, o, 3, padding=1), nn.BatchNorm2d(o), nn.ReLU(), nn.MaxPool2d(2)]
    return nn.Sequential(*block(3, 32), *block(32, 64), *block(64, 128), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(128, 10))
