"""Has the real huggingface_hub fetch files of a repository.

usage: fetch_files.py REPOSITORY FILE...
needs: huggingface_hub
"""

import os
import sys

os.environ.pop("HF_HUB_OFFLINE", None)

from huggingface_hub import hf_hub_download  # noqa: E402

for file in sys.argv[2:]:
    print(hf_hub_download(sys.argv[1], file))
