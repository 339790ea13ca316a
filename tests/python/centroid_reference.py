"""Top-1 accuracy of nearest-centroid classification by the cosine, in float64.

usage: centroid_reference.py SAFETENSORS
needs: numpy, safetensors

Reads `reference` [N, D], `held_out` [Q, D] and their `reference_labels` [N] and `held_out_labels` [Q].
Prints one accuracy. Of equally near classes the lowest is taken.
"""

import sys

import numpy as np
from safetensors.numpy import load_file


def main():
    case = load_file(sys.argv[1])
    vectors, labels = case["reference"].astype(np.float64), case["reference_labels"]
    classes = np.unique(labels)
    means = np.stack([vectors[labels == one].mean(axis=0) for one in classes])
    means /= np.linalg.norm(means, axis=1, keepdims=True)
    found = classes[(case["held_out"].astype(np.float64) @ means.T).argmax(axis=1)]
    print((found == case["held_out_labels"]).mean())


main()
