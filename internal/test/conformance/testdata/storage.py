"""Google's Python client uses the bucket "python" of the local cloud: what Dify does with it, and what else it can do.

It prints one line a step and ends with status 1 if one failed.
Usage: storage.py URL, with the access token in $DIFYUP_TOKEN.
"""

import gzip
import io
import os
import sys
import tempfile

from google.api_core import exceptions
from google.auth.credentials import Credentials
from google.cloud import storage

url, token = sys.argv[1].rstrip("/"), os.environ["DIFYUP_TOKEN"]


class Token(Credentials):
    def __init__(self):
        super().__init__()
        self.token = token

    def refresh(self, request):
        pass


client = storage.Client(project="conformance", credentials=Token(), client_options={"api_endpoint": url})
steps = []


def step(run):
    steps.append(run)
    return run


def same(got, want, what="it"):
    if got != want:
        raise AssertionError("%s is %.200r, want %.200r" % (what, got, want))


def refused(error, run):
    try:
        run()
    except error:
        return
    raise AssertionError("not refused with %s" % error.__name__)


def bucket():
    return client.get_bucket("python")


@step
def make_a_bucket():
    client.create_bucket("python", location="asia-northeast1")
    same(bucket().location, "ASIA-NORTHEAST1")


@step
def no_such_bucket():
    refused(exceptions.NotFound, lambda: client.get_bucket("python-none"))


# As Dify writes and reads: an upload of unnamed size, get_blob and then its contents, a stream, a file, delete.
data = os.urandom(3_000_000)


@step
def save():
    with io.BytesIO(b"one") as stream:
        bucket().blob("upload_files/t/a b+c%20ü.txt").upload_from_file(stream)


@step
def save_much():
    with io.BytesIO(data * 4) as stream:
        bucket().blob("upload_files/t/much").upload_from_file(stream)


@step
def save_nothing():
    with io.BytesIO(b"") as stream:
        bucket().blob("upload_files/t/empty").upload_from_file(stream)


@step
def save_over():
    for text in (b"two", b"three"):
        with io.BytesIO(text) as stream:
            bucket().blob("privkeys/t/private.pem").upload_from_file(stream)
    same(bucket().get_blob("privkeys/t/private.pem").download_as_bytes(), b"three")


@step
def load_once():
    same(bucket().get_blob("upload_files/t/a b+c%20ü.txt").download_as_bytes(), b"one")
    same(bucket().get_blob("upload_files/t/much").download_as_bytes(), data * 4)
    same(bucket().get_blob("upload_files/t/empty").download_as_bytes(), b"")


@step
def load_without_asking():
    same(bucket().blob("upload_files/t/much").download_as_bytes(), data * 4)


@step
def load_what_is_not_there():
    same(bucket().get_blob("none"), None)
    refused(exceptions.NotFound, lambda: bucket().blob("none").download_as_bytes())


@step
def load_stream():
    for name, want in (("upload_files/t/much", data * 4), ("upload_files/t/empty", b"")):
        got = io.BytesIO()
        with bucket().get_blob(name).open(mode="rb") as stream:
            while chunk := stream.read(4096):
                got.write(chunk)
        same(got.getvalue(), want, name)


@step
def download():
    with tempfile.NamedTemporaryFile() as f:
        bucket().get_blob("upload_files/t/much").download_to_filename(f.name)
        same(open(f.name, "rb").read(), data * 4)


@step
def exists():
    same(bucket().blob("upload_files/t/much").exists(), True)
    same(bucket().blob("none").exists(), False)


@step
def delete():
    bucket().delete_blob("privkeys/t/private.pem")
    same(bucket().blob("privkeys/t/private.pem").exists(), False)
    refused(exceptions.NotFound, lambda: bucket().delete_blob("privkeys/t/private.pem"))


@step
def scan():
    names = [b.name for b in client.list_blobs("python", prefix="upload_files/")]
    same(names, ["upload_files/t/a b+c%20ü.txt", "upload_files/t/empty", "upload_files/t/much"])


# What else the client can do.
@step
def links_stay_here():
    blob = bucket().get_blob("upload_files/t/much")
    same((blob.media_link.startswith(url + "/"), blob.self_link.startswith(url + "/")), (True, True))


@step
def ranges():
    blob = bucket().get_blob("upload_files/t/much")
    same(blob.download_as_bytes(start=10, end=19), data[10:20])
    same(blob.download_as_bytes(start=11_999_990), data[-10:])
    refused(exceptions.RequestRangeNotSatisfiable, lambda: blob.download_as_bytes(start=12_000_000))


@step
def checksums():
    for checksum in ("md5", "crc32c"):
        blob = bucket().blob("sums")
        blob.upload_from_string(b"hello world", checksum=checksum)
        same((blob.md5_hash, blob.crc32c), ("XrY7u+Ae7tCTyyK7j1rNww==", "yZRlqg=="))
        same(bucket().blob("sums").download_as_bytes(checksum=checksum), b"hello world")
        big = bucket().blob("sums", chunk_size=256 * 1024)
        big.upload_from_file(io.BytesIO(data), checksum=checksum)
        same(bucket().get_blob("sums").download_as_bytes(checksum=checksum), data)


@step
def pieces():
    for chunk in (256 * 1024, 1024 * 1024):
        blob = bucket().blob("pieces", chunk_size=chunk)
        blob.upload_from_file(io.BytesIO(data))
        same(bucket().get_blob("pieces").download_as_bytes(), data)
        blob.upload_from_file(io.BytesIO(data[:chunk]), size=chunk)
        same(bucket().blob("pieces", chunk_size=chunk).download_as_bytes(), data[:chunk])


@step
def writer():
    with bucket().blob("writer", chunk_size=256 * 1024).open("wb", ignore_flush=True) as f:
        for i in range(0, len(data), 100_000):
            f.write(data[i:i + 100_000])
    same(bucket().get_blob("writer").download_as_bytes(), data)


@step
def preconditions():
    blob = bucket().blob("once")
    blob.upload_from_string("1", if_generation_match=0)
    refused(exceptions.PreconditionFailed, lambda: blob.upload_from_string("2", if_generation_match=0))
    refused(exceptions.PreconditionFailed, lambda: blob.delete(if_generation_match=1))
    refused(exceptions.PreconditionFailed, lambda: blob.download_as_bytes(if_generation_match=1))
    refused(exceptions.PreconditionFailed, lambda: blob.patch(if_metageneration_match=7))
    blob.delete(if_generation_match=blob.generation)


@step
def metadata():
    blob = bucket().blob("meta")
    blob.metadata = {"Colour": "blue"}
    blob.cache_control = "no-store"
    blob.upload_from_string("x", content_type="text/plain; charset=utf-8")
    blob = bucket().get_blob("meta")
    same((blob.metadata, blob.cache_control, blob.content_type), ({"Colour": "blue"}, "no-store", "text/plain; charset=utf-8"))
    blob.metadata = {"Colour": None, "shape": "round"}
    blob.patch()
    same((bucket().get_blob("meta").metadata, blob.metageneration), ({"shape": "round"}, 2))


@step
def gzip_kept_and_undone():
    blob = bucket().blob("zipped")
    blob.content_encoding = "gzip"
    packed = gzip.compress(b"hello " * 1000)
    blob.upload_from_string(packed, content_type="text/plain")
    same(bucket().get_blob("zipped").content_encoding, "gzip")
    try:
        same(bucket().get_blob("zipped").download_as_bytes(), b"hello " * 1000)
    except TypeError as e:  # google-resumable-media 2.8 with urllib3 2.6: they do not fit, wherever the bucket is
        if "max_length" not in str(e):
            raise
    same(bucket().get_blob("zipped").download_as_bytes(raw_download=True), packed)


@step
def compose():
    for name in ("a", "b"):
        bucket().blob(name).upload_from_string(name * 3)
    whole = bucket().blob("ab")
    whole.compose([bucket().blob("a"), bucket().blob("b")])
    same((whole.component_count, whole.md5_hash), (2, None))
    same(bucket().get_blob("ab").download_as_bytes(), b"aaabbb")


@step
def copy_and_rewrite():
    source = bucket().get_blob("pieces")
    copied = bucket().copy_blob(source, bucket(), "copied")
    same(copied.download_as_bytes(), data[:1024 * 1024])
    target, written = bucket().blob("rewritten"), 0
    token, written, total = target.rewrite(bucket().get_blob("sums"))
    while token is not None:
        token, written, total = target.rewrite(bucket().get_blob("sums"), token=token)
    same((written, total), (len(data), len(data)))
    renamed = bucket().rename_blob(target, "renamed")
    same((renamed.download_as_bytes(), bucket().get_blob("rewritten")), (data, None))


@step
def batch():
    names = ["batch%d" % i for i in range(5)]
    for name in names:
        bucket().blob(name).upload_from_string(name)
    with client.batch():
        for name in names[:3]:
            client.bucket("python").blob(name).delete()
    same([b.name for b in client.list_blobs("python", prefix="batch")], names[3:])
    bucket().delete_blobs([client.bucket("python").blob(n) for n in names], on_error=lambda blob: None)
    same(list(client.list_blobs("python", prefix="batch")), [])


@step
def listing():
    for name in ("l/a.txt", "l/b.txt", "l/d/c.txt", "l/d/e.bin"):
        bucket().blob(name).upload_from_string("x")
    found = client.list_blobs("python", prefix="l/", delimiter="/")
    same(([b.name for b in found], found.prefixes), (["l/a.txt", "l/b.txt"], {"l/d/"}))
    same([b.name for b in client.list_blobs("python", prefix="l/", page_size=1)], ["l/a.txt", "l/b.txt", "l/d/c.txt", "l/d/e.bin"])
    same([b.name for b in client.list_blobs("python", match_glob="l/**.txt")], ["l/a.txt", "l/b.txt", "l/d/c.txt"])
    same([b.name for b in client.list_blobs("python", start_offset="l/b", end_offset="l/d/d")], ["l/b.txt", "l/d/c.txt"])
    same([b.name for b in client.list_blobs("python", prefix="l/", max_results=2)], ["l/a.txt", "l/b.txt"])


@step
def versions():
    b = bucket()
    b.versioning_enabled = True
    b.patch()
    first = b.blob("v")
    first.upload_from_string("1")
    b.blob("v").upload_from_string("2")
    same(len(list(client.list_blobs("python", prefix="v", versions=True))), 2)
    same(b.blob("v", generation=first.generation).download_as_bytes(), b"1")


@step
def empty_and_delete():
    b = bucket()
    refused(exceptions.Conflict, lambda: b.delete())
    for blob in client.list_blobs("python", versions=True):
        blob.delete()
    b.delete()


failed = 0
for run in steps:
    try:
        run()
        print("ok", run.__name__)
    except Exception as e:
        failed += 1
        print("FAILED", run.__name__, type(e).__name__, e)
sys.exit(1 if failed else 0)
