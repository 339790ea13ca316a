"""Top-1 and top-5 accuracies of weighted k-nearest-neighbour voting, in float64.

usage: knn_reference.py SAFETENSORS TEMPERATURE K...
needs: numpy, safetensors

Reads `reference` [N, D], `held_out` [Q, D] and their `reference_labels` [N] and `held_out_labels` [Q].
Prints both accuracies of a K in a line. Of equally near references the first are taken, of classes with equal
votes the lowest.
"""

import sys

import numpy as np
from safetensors.numpy import load_file


def accuracies(case, similarities, temperature, k):
    labels, truth = case["reference_labels"], case["held_out_labels"]
    right = np.zeros(2)
    for row, own in zip(similarities, truth):
        nearest = np.argsort(-row, kind="stable")[:k]
        votes = np.zeros(labels.max() + 1)
        for reference in nearest:
            votes[labels[reference]] += np.exp(row[reference] / temperature)
        order = [label for label in np.argsort(-votes, kind="stable") if votes[label] > 0]
        right += [own in order[:1], own in order[:5]]
    return right / len(truth)


def main():
    path, temperature, *neighbours = sys.argv[1:]
    case = load_file(path)
    similarities = case["held_out"].astype(np.float64) @ case["reference"].astype(np.float64).T
    for k in neighbours:
        print(*accuracies(case, similarities, float(temperature), int(k)))


main()
