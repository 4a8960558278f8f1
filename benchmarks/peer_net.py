"The network of the digits, for this package and for peers in other environments: torch alone"
from torch import nn

def digits_net():
    "Two convolutions and a dense layer, after figure 4a of Ganin et al. (2016), each with BatchNorm, and a linear head on 100 features, as this package makes it: on features of one scale, from zero"
    block = lambda i, o: [nn.Conv2d(i, o, 5, padding=2), nn.BatchNorm2d(o), nn.ReLU(), nn.MaxPool2d(2)]
    head = nn.Linear(100, 10)
    nn.init.zeros_(head.weight); nn.init.zeros_(head.bias)
    return nn.Sequential(*block(3, 32), *block(32, 48), nn.Flatten(), nn.Linear(48*7*7, 100), nn.BatchNorm1d(100), nn.ReLU(), nn.Sequential(nn.BatchNorm1d(100, affine=False), head))
