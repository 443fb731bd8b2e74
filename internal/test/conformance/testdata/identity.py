"""Google's Python client finds out by itself who it is, and does with the bucket "files" what Dify does, until it has had some
tokens. Usage: identity.py ROOT TOKENS"""

import sys
import time

from google.api_core import exceptions
from google.cloud import storage

root, want = sys.argv[1], int(sys.argv[2])
client = storage.Client(client_options={"api_endpoint": root})
assert client.project == "demo-project", client.project
tokens, rounds = [], 0
while len(tokens) < want or rounds < want:
    name = "upload_files/t/%d" % rounds
    bucket = client.get_bucket("files")
    bucket.blob(name).upload_from_string(b"contents")
    assert bucket.get_blob(name).download_as_bytes() == b"contents"
    assert name in [b.name for b in client.list_blobs("files", prefix="upload_files/")]
    bucket.delete_blob(name)
    rounds += 1
    if client._credentials.token not in tokens:
        tokens.append(client._credentials.token)
    time.sleep(0.1)


def refused(call):
    try:
        call()
    except exceptions.Forbidden:
        return
    raise AssertionError("it was not refused")


refused(lambda: client.get_bucket("others"))
refused(lambda: client.bucket("others").blob("plugin/a").download_as_bytes())
refused(lambda: list(client.list_buckets()))
answer = client._http.get(root + "/v1/projects/demo-project/secrets/s/versions/1:access")
assert answer.status_code == 403, (answer.status_code, answer.text)
print(len(tokens), "tokens in", rounds, "rounds; it is", client._credentials.service_account_email)
