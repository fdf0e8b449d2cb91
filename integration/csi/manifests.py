"""Reads the manifests of a folder: that each is YAML, and that what they name in each other is there. Prints the settings that
classes have, KEY=VALUE a line. manifests.py FOLDER DRIVER SOCKET"""
import pathlib
import sys

import yaml

folder, driver, socket = sys.argv[1:]
documents = []
for path in sorted(pathlib.Path(folder).glob("*.yaml")):
    documents += [(path.name, one) for one in yaml.safe_load_all(path.read_text())]
for name, one in documents:
    for key in ("apiVersion", "kind", "metadata"):
        assert key in one, f"{name}: a document without {key}"


def all_of(kind):
    return {one["metadata"]["name"]: one for _, one in documents if one["kind"] == kind}


kinds = {one["kind"] for _, one in documents}
wanted = {"CSIDriver", "Deployment", "DaemonSet", "StorageClass", "VolumeSnapshotClass", "ClusterRole", "PersistentVolumeClaim"}
assert wanted <= kinds, f"missing: {wanted - kinds}"
assert list(all_of("CSIDriver")) == [driver]
for one in all_of("StorageClass").values():
    assert one["provisioner"] == driver and one["allowVolumeExpansion"] is True
for one in all_of("VolumeSnapshotClass").values():
    assert one["driver"] == driver
for one in all_of("VolumeAttributesClass").values():
    assert one["driverName"] == driver
accounts = all_of("ServiceAccount")
for kind, role in (("ClusterRoleBinding", "ClusterRole"), ("RoleBinding", "Role")):
    for one in all_of(kind).values():
        assert one["roleRef"]["kind"] == role and one["roleRef"]["name"] in all_of(role), one["roleRef"]
        assert all(subject["name"] in accounts for subject in one["subjects"])
for kind in ("Deployment", "DaemonSet"):
    for one in all_of(kind).values():
        assert one["metadata"]["namespace"] in all_of("Namespace")
        labels = one["spec"]["template"]["metadata"]["labels"]
        assert one["spec"]["selector"]["matchLabels"] == labels
        pod = one["spec"]["template"]["spec"]
        assert pod.get("serviceAccountName", "default") in {*accounts, "default"}
        volumes = {v["name"]: v["hostPath"]["path"] for v in pod["volumes"]}
        assert volumes["driver"] == str(pathlib.Path(socket).parent)
        for container in pod["containers"]:
            mounts = {m["name"]: m["mountPath"] for m in container["volumeMounts"]}
            assert set(mounts) <= set(volumes)
            assert f"--csi-address={mounts['driver']}/{pathlib.Path(socket).name}" in container["args"]
            for arg in container["args"]:
                assert not arg.startswith("--kubelet-registration-path") or arg.endswith("=" + socket)
classes = {None: [], **{name: one for name, one in all_of("StorageClass").items()}}
for one in all_of("PersistentVolumeClaim").values():
    assert one["spec"]["storageClassName"] in classes
for one in [*all_of("StorageClass").values(), *all_of("VolumeAttributesClass").values()]:
    for key, value in one["parameters"].items():
        assert isinstance(value, str), f"{key}: {value!r} is no text"
        if key != "pool" and not key.startswith("csi.storage.k8s.io/"):
            print(f"{key}={value}")
