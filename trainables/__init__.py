"""What one trial is: train a pair of networks, merge them, score the merge.

Needs torch and numpy (scikit-learn or torchvision for their data sets, safetensors to share base weights between
processes), so that it runs on a bare GPU machine. Importing this package loads nothing heavy.

Notation used in every module (units in brackets):

========  ==========================================================================
theta_0   base weights, shared by both children
theta_A   weights of child A; theta_B of child B
tau_i     task vector theta_i - theta_0
alpha     interpolation coefficient in [0, 1]: (1 - alpha) theta_A + alpha theta_B
s         task-arithmetic scale: theta_0 + s (tau_A + tau_B)
eta       learning rate of the stable phase [1]
B         global batch size [examples]
mu        momentum coefficient, v <- mu v + g, no dampening [1]
lambda    weight decay as passed to the optimizer [1]
N         number of training examples [examples]
T         number of optimizer steps [steps]
S         effective noise scale, see `trainables.noise` [1/examples for `paper`]
========  ==========================================================================

Source: arXiv 2510.04686.
"""

__version__ = "0.1.0"
