"""Trials: train two or more networks, merge them, score the merges.

The package needs only torch, torchvision, timm, numpy, scipy, scikit-learn and safetensors, so that it runs on a bare
GPU machine. Its import loads none of them.

Notation used in every module (units in brackets):

========  ==========================================================================
theta_0   base weights, shared by all children; those of the trunk in `branch`
theta_i   weights of child i; theta_A and theta_B are those of the first two
tau_i     task vector theta_i - theta_0
alpha     interpolation coefficient in [0, 1]: (1 - alpha) theta_A + alpha theta_B
s         task-arithmetic scale: theta_0 + s sum_i tau_i
eta       learning rate of the stable phase [1]
B         global batch size, over all ranks of a child [examples]
mu        momentum coefficient, v <- mu v + g, no dampening [1]
beta_1    decay rate of Adam's first moment, beta_2 of its second v [1]
lambda    weight decay as passed to the optimizer [1]
N         number of examples that one child trains on [examples]
T         number of optimizer steps of one child [steps]
G, Sigma  gradient of the mean loss, and covariance of one example's gradient
k_aug     tr Sigma with augmentation divided by that without, at theta_0 [1]
H         Hessian of the mean loss [nat/parameter^2]
S         effective noise scale, see `trainables.noise` [1/examples for `paper`]
========  ==========================================================================

Source: arXiv 2510.04686.
"""

__version__ = "0.1.0"
