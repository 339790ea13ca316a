"""Accuracies of scikit-learn's multinomial logistic regression.

usage: linear_reference.py SAFETENSORS STRENGTH...
needs: numpy, safetensors, scikit-learn

Reads `train`, `validation` and `test` [N, 2D], class tokens first, and `train_labels` and so on [N]. Prints a
line for the class tokens and one for all, for each strength: accuracy on validation and on test.
"""

import sys

from safetensors.numpy import load_file
from sklearn.linear_model import LogisticRegression


def main():
    path, *strengths = sys.argv[1:]
    case = load_file(path)
    width = case["train"].shape[1]
    for columns in (width // 2, width):
        for strength in strengths:
            model = LogisticRegression(C=float(strength), tol=1e-6, max_iter=5000)
            model.fit(case["train"][:, :columns].astype("float64"), case["train_labels"])
            print(
                *(
                    model.score(case[name][:, :columns].astype("float64"), case[f"{name}_labels"])
                    for name in ("validation", "test")
                )
            )


main()
