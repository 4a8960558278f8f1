"The network of the digits, for this package and for peers in other environments: torch alone"
import math

import torch
from torch import nn
from torch.nn import functional as F

class Vary(nn.Module):
    "In training, each image turned by up to 10 degrees, made 0.6 to 1.1 times as large, and moved by up to a tenth, by chance; -1 is black"
    def forward(self, x):
        if not self.training: return x
        u = torch.rand(4, len(x), device=x.device)
        a, s = (2*u[0] - 1)*math.radians(10), .6 + .5*u[1]
        c, t, (right, down) = a.cos()/s, a.sin()/s, .2*(2*u[2:] - 1)
        theta = torch.stack([torch.stack([c, -t, right], 1), torch.stack([t, c, down], 1)], 1)
        return F.grid_sample(x + 1, F.affine_grid(theta, list(x.shape), align_corners=False), align_corners=False) - 1

def digits_net(vary=True):
    "Two convolutions and a dense layer, after figure 4a of Ganin et al. (2016), each with BatchNorm, and a linear head on 100 features, as this package makes it: on features of one scale, from zero"
    block = lambda i, o: [nn.Conv2d(i, o, 5, padding=2), nn.BatchNorm2d(o), nn.ReLU(), nn.MaxPool2d(2)]
    head = nn.Linear(100, 10)
    nn.init.zeros_(head.weight); nn.init.zeros_(head.bias)
    return nn.Sequential(*[Vary()]*vary, *block(3, 32), *block(32, 48), nn.Flatten(), nn.Linear(48*7*7, 100), nn.BatchNorm1d(100), nn.ReLU(), nn.Sequential(nn.BatchNorm1d(100, affine=False), head))
