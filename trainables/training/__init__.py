"""Training of children: the loop, optimizers, schedules, ranks, checkpoints."""
