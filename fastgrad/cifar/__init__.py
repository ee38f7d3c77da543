"""CIFAR experiments: data, models and a training loop around ``fastgrad.optim.SGD`` and ``fastgrad.Monitor``.

``fastgrad cifar train`` runs one experiment into a folder, ``fastgrad cifar report`` compares such folders.
"""
