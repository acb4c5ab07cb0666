"""Writes a root filesystem as an OCI archive of one layer: image.py ROOTFS ARCHIVE NAME."""

import gzip
import hashlib
import io
import json
import platform
import sys
import tarfile


def main(rootfs, archive, name):
    layer = io.BytesIO()
    with tarfile.open(fileobj=layer, mode="w") as tar:
        tar.add(rootfs, arcname=".")
    layer = layer.getvalue()
    blobs = {}

    def blob(media_type, content):
        digest = hashlib.sha256(content).hexdigest()
        blobs[f"blobs/sha256/{digest}"] = content
        return {"mediaType": media_type, "digest": f"sha256:{digest}", "size": len(content)}

    def text(value):
        return json.dumps(value).encode()

    kind = "application/vnd.oci.image"
    config = {
        "architecture": {"x86_64": "amd64", "aarch64": "arm64"}[platform.machine()],
        "os": "linux",
        # What a sandbox runs whose image this is.
        "config": {"Cmd": ["/bin/busybox", "sleep", "2147483"]},
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{hashlib.sha256(layer).hexdigest()}"]},
    }
    manifest = {
        "schemaVersion": 2,
        "mediaType": f"{kind}.manifest.v1+json",
        "config": blob(f"{kind}.config.v1+json", text(config)),
        "layers": [blob(f"{kind}.layer.v1.tar+gzip", gzip.compress(layer, 1))],
    }
    entry = blob(f"{kind}.manifest.v1+json", text(manifest))
    # podman reads the one, containerd the other.
    entry["annotations"] = {
        "org.opencontainers.image.ref.name": name,
        "io.containerd.image.name": name,
    }
    files = {"oci-layout": text({"imageLayoutVersion": "1.0.0"})}
    files["index.json"] = text({"schemaVersion": 2, "manifests": [entry]})
    with tarfile.open(archive, mode="w") as tar:
        for path, content in (files | blobs).items():
            info = tarfile.TarInfo(path)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))


main(*sys.argv[1:])
