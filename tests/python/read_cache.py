"""What the real huggingface_hub finds in a cache, without a network.

usage: read_cache.py CACHE REPOSITORY REVISION FILE...
needs: huggingface_hub
"""

import sys

from huggingface_hub import hf_hub_download, scan_cache_dir, snapshot_download

cache, repository, revision, *files = sys.argv[1:]
print(snapshot_download(repository, revision=revision, cache_dir=cache, local_files_only=True))
for file in files:
    print(hf_hub_download(repository, file, revision=revision, cache_dir=cache, local_files_only=True))
found = scan_cache_dir(cache)
assert not found.warnings, found.warnings
assert [repo.repo_id for repo in found.repos] == [repository], found.repos
