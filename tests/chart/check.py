"""See run."""

import pathlib
import sys

import helm_python
import kubernetes_validate
import yaml
from helm_python import Chart

HERE = pathlib.Path(__file__).parent
CHART = HERE.parent.parent / "deploy" / "mokv"
# The last three minors whose schemas the package has.
MINORS = ["1.35", "1.36", "1.37"]
# Not of Kubernetes itself: no schema.
FOREIGN = {"ServiceMonitor", "PrometheusRule"}
# Values that are refused, and a part of what the user is told.
REFUSED = [
    ({"replicas": 0}, "at '/replicas': minimum"),
    ({"replicass": 3}, "'replicass' not allowed"),
    ({"storage": "much"}, "at '/storage'"),
    ({"rpcPort": 70000}, "at '/rpcPort': maximum"),
    ({"image": {"pullPolicy": "Sometimes"}}, "at '/image/pullPolicy'"),
    ({"image": {"digest": "latest"}}, "at '/image/digest'"),
    ({"service": {"type": "Headless"}}, "at '/service/type'"),
    ({"volumeRetention": {"whenScaled": "Keep"}}, "at '/volumeRetention/whenScaled'"),
    ({"config": {"failed_grace": "1m"}}, "'failed_grace' does not match"),
    ({"terminationGracePeriodSeconds": 1}, "at '/terminationGracePeriodSeconds'"),
    ({"bootstrapExpect": 5}, "only 3 replicas"),
    ({"resources": {"limits": {"memory": "lots"}}}, "memory"),
]


def render(chart, path):
    settings = yaml.safe_load(path.read_text()) or {}
    release = settings.pop("_release", {})
    name, namespace = release.get("name", "mokv"), release.get("namespace", "default")
    files = chart.render(settings, name=name, namespace=namespace, is_install=True)
    notes = files.pop("mokv/templates/NOTES.txt")
    assert "mokv set" in notes, notes
    manifests = "".join(f"---\n# {name}\n{text.strip()}\n" for name, text in sorted(files.items()) if text.strip())
    # Random by intent.
    return "\n".join("  gossip-key: ..." if "gossip-key: " in line else line for line in manifests.split("\n"))


def judge(path, manifests):
    names = set()
    for manifest in yaml.safe_load_all(manifests):
        if not isinstance(manifest, dict):
            continue
        kind, name = manifest["kind"], manifest["metadata"]["name"]
        assert len(name) <= 63, f"{path.name}: {kind} {name}: the name is too long"
        assert (kind, name) not in names, f"{path.name}: {kind} {name} is there twice"
        names.add((kind, name))
        if kind in FOREIGN:
            continue
        if kind == "Secret":
            manifest.pop("data")
        for minor in MINORS:
            kubernetes_validate.validate(manifest, minor, strict=True)
    return len(names)


def main():
    accept = "--accept" in sys.argv
    report = helm_python.lint(str(CHART), strict=True)
    complaints = [message for message in report["messages"] if message["severity"] >= 2] + report["errors"]
    assert not complaints, complaints
    chart = Chart.load(str(CHART))
    wrong = []
    sets = sorted((HERE / "values").glob("*.yaml"))
    for path in sets:
        manifests = render(chart, path)
        count = judge(path, manifests)
        golden = HERE / "golden" / path.name
        if accept:
            golden.write_text(manifests)
        elif not golden.exists() or golden.read_text() != manifests:
            wrong.append(path.name)
        print(f"{path.name}: {count} manifests, valid for Kubernetes {', '.join(MINORS)}")
    assert not wrong, f"differs from golden: {wrong}; look at `tests/chart/run --accept; git diff`"
    for settings, expected in REFUSED:
        try:
            chart.render(settings, name="mokv", namespace="default")
        except helm_python.HelmError as error:
            assert expected in str(error), f"{settings}: {error}"
        else:
            raise AssertionError(f"{settings} is not refused")
    print(f"{len(REFUSED)} wrong values are refused with a reason")
    print(f"{len(sets) + len(REFUSED)} passed, 0 failed")


main()
