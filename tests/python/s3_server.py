"""A real S3 server (moto) with the files of a folder in the bucket `shards`.

Prints its address, then serves until its standard input ends. Everybody may read the files;
with `--locked`, nobody may do anything once they are there.
"""

import logging
import os
import sys

folder = sys.argv[1]
files = [os.path.join(place, name) for place, _, names in os.walk(folder) for name in names]
if "--locked" in sys.argv:
    os.environ["INITIAL_NO_AUTH_ACTION_COUNT"] = str(1 + len(files))

import boto3  # noqa: E402
from moto.server import ThreadedMotoServer  # noqa: E402

server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
server.start()
logging.getLogger("werkzeug").setLevel(logging.ERROR)
host, port = server.get_host_and_port()
address = f"http://{host}:{port}"

client = boto3.client(
    "s3",
    endpoint_url=address,
    region_name="us-east-1",
    aws_access_key_id="test",
    aws_secret_access_key="test",
)
client.create_bucket(Bucket="shards")


def upload(name):
    public = {"ACL": "public-read"}
    client.upload_file(os.path.join(folder, name), "shards", name, ExtraArgs=public)


for path in files:
    upload(os.path.relpath(path, folder))

print(address, flush=True)
# Every further line names a file that is to be uploaded again.
for line in sys.stdin:
    upload(line.strip())
    print("uploaded", flush=True)
server.stop()
