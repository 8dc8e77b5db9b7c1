"""Plays the lives of the chart's pods, in the order of the StatefulSet controller, on a Docker network of its own.

Each pod is a container with what the rendered manifest says: arguments, environment, probes, preStop, security context, volume
and DNS names. Scaled up and down, restarted one after the other, with a volume lost, all killed at once, with other addresses;
all that while `mokv bench --check` calls: no call may fail, and each counter has to be exact.
"""

import concurrent.futures
import http.server
import json
import os
import pathlib
import shutil
import ssl
import subprocess
import sys
import tempfile
import threading
import time

import grpc
import yaml
from grpc_health.v1 import health_pb2, health_pb2_grpc
from helm_python import Chart

ROOT = pathlib.Path(__file__).parent.parent.parent
IMAGE = sys.argv[1] if len(sys.argv) > 1 else "mokv:0.1.0"
PREFIX = f"mokv-pods-{os.getpid()}"
NAMESPACE, RELEASE = "default", "mokv"
TOKEN = "a-token"


def run(*arguments, check=True, text=True, **options):
    done = subprocess.run(arguments, capture_output=True, text=text, **options)
    if check and done.returncode != 0:
        raise RuntimeError(f"{' '.join(arguments)}: {done.returncode}: {done.stdout}{done.stderr}")
    return done


def docker(*arguments, check=True):
    return run("docker", *arguments, check=check).stdout.strip()


def until(what, condition, seconds=90):
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        result = condition()
        if result:
            return result
        time.sleep(0.1)
    raise TimeoutError(f"not within {seconds} s: {what}")


class Api:
    """The API server: it knows one StatefulSet, and who may ask for it."""

    def __init__(self, host, work):
        self.replicas = 0
        account = work / "serviceaccount"
        account.mkdir()
        run(
            "openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", "-subj", "/CN=kubernetes",
            "-addext", f"subjectAltName=IP:{host}", "-addext", "basicConstraints=critical,CA:FALSE",
            "-keyout", str(work / "key.pem"), "-out", str(account / "ca.crt"),
        )
        (account / "token").write_text(TOKEN)
        os.chmod(work, 0o755)
        self.account = account
        api = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                path = f"/apis/apps/v1/namespaces/{NAMESPACE}/statefulsets/{RELEASE}"
                if self.headers["Authorization"] != f"Bearer {TOKEN}":
                    return self.send_error(401)
                if self.path != path:
                    return self.send_error(403)
                body = json.dumps({"metadata": {"name": RELEASE}, "spec": {"replicas": api.replicas}}).encode()
                self.send_response(200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_):
                pass

        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(account / "ca.crt", work / "key.pem")
        self.server = http.server.ThreadingHTTPServer((host, 0), Handler)
        self.server.socket = context.wrap_socket(self.server.socket, server_side=True)
        self.host, self.port = host, self.server.server_address[1]
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


class Pods:
    """The StatefulSet's controller, the kubelets and DNS."""

    def __init__(self, work):
        manifests = Chart.load(str(ROOT / "deploy" / "mokv")).render({}, name=RELEASE, namespace=NAMESPACE)
        manifest = yaml.safe_load(manifests["mokv/templates/statefulset.yaml"])
        self.spec = manifest["spec"]
        self.pod = self.spec["template"]["spec"]
        self.container = self.pod["containers"][0]
        self.domain = f"{self.spec['serviceName']}.{NAMESPACE}.svc.cluster.local"
        self.network = f"{PREFIX}-net"
        docker("network", "create", self.network)
        config = json.loads(docker("network", "inspect", self.network))[0]["IPAM"]["Config"][0]
        self.api = Api(config["Gateway"], work)

    def name(self, index):
        return f"{PREFIX}-{RELEASE}-{index}"

    def volume(self, index):
        return f"{PREFIX}-data-{index}"

    def exists(self, index):
        return docker("ps", "-aq", "--filter", f"name=^{self.name(index)}$") != ""

    def create(self, index):
        pod = f"{RELEASE}-{index}"
        if docker("volume", "ls", "-q", "--filter", f"name=^{self.volume(index)}$") == "":
            docker("volume", "create", self.volume(index))
            # As fsGroup has it.
            mount = docker("volume", "inspect", "--format", "{{.Mountpoint}}", self.volume(index))
            os.chown(mount, 0, self.pod["securityContext"]["fsGroup"])
            os.chmod(mount, 0o2775)
        env = {"KUBERNETES_SERVICE_HOST": self.api.host, "KUBERNETES_SERVICE_PORT": str(self.api.port)}
        for variable in self.container["env"]:
            field = variable.get("valueFrom", {}).get("fieldRef", {}).get("fieldPath")
            assert field in (None, "metadata.name"), field
            value = pod if field else variable["value"]
            for known, text in env.items():
                value = value.replace(f"$({known})", text)
            env[variable["name"]] = value
        user = self.pod["securityContext"]
        arguments = ["run", "--detach", "--name", self.name(index), "--hostname", pod, "--network", self.network]
        for alias in (f"{pod}.{self.domain}", self.domain):
            arguments += ["--network-alias", alias]
        arguments += ["--read-only", "--user", f"{user['runAsUser']}:{user['runAsGroup']}", "--cap-drop", "ALL"]
        arguments += ["--group-add", str(user["fsGroup"]), "--security-opt", "no-new-privileges:true"]
        arguments += ["--memory", "1g", "--volume", f"{self.volume(index)}:/var/lib/mokv"]
        arguments += ["--volume", f"{self.api.account}:/var/run/secrets/kubernetes.io/serviceaccount:ro"]
        for name, value in env.items():
            arguments += ["--env", f"{name}={value}"]
        docker(*arguments, IMAGE, *self.container["args"])

    def address(self, index):
        template = "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}"
        return docker("inspect", "--format", template, self.name(index))

    def probe(self, index, kind):
        spec = self.container[kind]["grpc"]
        with grpc.insecure_channel(f"{self.address(index)}:{spec['port']}") as channel:
            stub = health_pb2_grpc.HealthStub(channel)
            try:
                answer = stub.Check(health_pb2.HealthCheckRequest(service=spec["service"]), timeout=2)
            except grpc.RpcError:
                return False
            return answer.status == health_pb2.HealthCheckResponse.SERVING

    def wait_ready(self, indices):
        for index in indices:
            # A kubelet starts a container again that ended.
            def ready(index=index):
                if docker("inspect", "--format", "{{.State.Running}}", self.name(index)) != "true":
                    print(docker("logs", "--tail", "5", self.name(index), check=False))
                    docker("start", self.name(index))
                return self.probe(index, "readinessProbe")

            until(f"{RELEASE}-{index} is ready", ready)
            assert self.probe(index, "livenessProbe")

    def terminate(self, index):
        """As a kubelet does: preStop, SIGTERM, and SIGKILL when the grace is over."""
        grace = self.pod["terminationGracePeriodSeconds"]
        hook = self.container["lifecycle"]["preStop"]["exec"]["command"]
        said = run("docker", "exec", self.name(index), *hook, check=False)
        assert said.returncode == 0, f"{RELEASE}-{index}: preStop: {said.stdout}{said.stderr}"
        docker("stop", "--time", str(grace), self.name(index))
        code = docker("inspect", "--format", "{{.State.ExitCode}}", self.name(index))
        assert code == "0", f"{RELEASE}-{index} ended with {code}: {docker('logs', '--tail', '20', self.name(index))}"
        docker("rm", self.name(index))
        return said.stdout.strip()

    def scale(self, replicas):
        before = self.api.replicas
        self.api.replicas = replicas
        with concurrent.futures.ThreadPoolExecutor() as pool:
            # podManagementPolicy: Parallel.
            gone = list(pool.map(self.terminate, range(replicas, before)))
        assert all("has left" in said for said in gone), gone
        for index in range(replicas, before):
            if self.spec["persistentVolumeClaimRetentionPolicy"]["whenScaled"] == "Delete":
                docker("volume", "rm", self.volume(index))
        for index in range(before, replicas):
            self.create(index)
        self.wait_ready(range(before, replicas))

    def sleep(self):
        """Scaled to nothing: nobody leaves, the volumes stay."""
        count, self.api.replicas = self.api.replicas, 0
        with concurrent.futures.ThreadPoolExecutor() as pool:
            said = list(pool.map(self.terminate, range(count)))
        assert all("stays a member" in line for line in said), said

    def members(self, voters):
        def as_expected():
            said = run("docker", "exec", self.name(0), "/mokv", "member", "list", "-o", "json", check=False)
            members = json.loads(said.stdout) if said.returncode == 0 else []
            is_right = len(members) == len(voters) and all(m["role"] in ("voter", "leader") for m in members)
            return {m["name"]: m for m in members} if is_right else None

        members = until(f"the members are {voters}", as_expected)
        assert sorted(members) == sorted(voters), members
        return members

    def end(self):
        for container in docker("ps", "-aq", "--filter", f"name=^{PREFIX}", check=False).split():
            docker("rm", "--force", container, check=False)
        for volume in docker("volume", "ls", "-q", "--filter", f"name=^{PREFIX}", check=False).split():
            docker("volume", "rm", volume, check=False)
        docker("network", "rm", self.network, check=False)


class Load:
    """Our client, at work while something happens."""

    def __init__(self, pods, what, timeout="10s"):
        self.pods, self.what = pods, what
        self.name = f"{PREFIX}-load"
        endpoint = f"{pods.domain}:8400"
        docker(
            "run", "--detach", "--name", self.name, "--network", pods.network, "--stop-signal", "SIGINT", IMAGE, "bench",
            "--check", "--clients", "16", "--duration", "1h", "--timeout", timeout, "--endpoints", endpoint, "-o", "json",
        )

    def __enter__(self):
        time.sleep(1)
        return self

    def __exit__(self, error, *_):
        if error is None:
            time.sleep(1)
        docker("stop", "--time", "30", self.name)
        report, code = docker("logs", self.name), docker("inspect", "--format", "{{.State.ExitCode}}", self.name)
        docker("rm", "--force", self.name)
        if error is None:
            assert code == "0", f"{self.what}: {code}: {report}"
            report = json.loads(report.splitlines()[-1])
            print(f"{self.what}: {report['writes_per_second']} writes/s, {report['failed']} failed, "
                  f"slowest {report['slowest_us'] // 1000} ms")


def everybody(count):
    return [f"{RELEASE}-{index}" for index in range(count)]


def play(pods):
    began = time.monotonic()
    pods.scale(3)
    pods.members(everybody(3))
    print(f"installed: three voters after {time.monotonic() - began:.1f} s")

    with Load(pods, "scaled to 5 and back to 3"):
        pods.scale(5)
        pods.members(everybody(5))
        pods.scale(3)
        pods.members(everybody(3))

    with Load(pods, "restarted one after the other"):
        before = pods.members(everybody(3))
        for index in (2, 1, 0):
            said = pods.terminate(index)
            assert "stays a member" in said, said
            pods.create(index)
            pods.wait_ready([index])
            time.sleep(pods.spec["minReadySeconds"])
        after = pods.members(everybody(3))
        assert {n: m["node_id"] for n, m in before.items()} == {n: m["node_id"] for n, m in after.items()}

    with Load(pods, "a pod and its volume lost"):
        before = pods.members(everybody(3))
        docker("rm", "--force", pods.name(1))
        docker("volume", "rm", pods.volume(1))
        pods.create(1)
        pods.wait_ready([1])
        after = until("the lost node is replaced", lambda: (m := pods.members(everybody(3))) and m[f"{RELEASE}-1"]["node_id"] != before[f"{RELEASE}-1"]["node_id"] and m)
        assert after[f"{RELEASE}-0"]["node_id"] == before[f"{RELEASE}-0"]["node_id"]

    with Load(pods, "all killed at once", timeout="60s"):
        for index in range(3):
            docker("kill", pods.name(index))
        for index in range(3):
            docker("rm", pods.name(index))
        for index in range(3):
            pods.create(index)
        pods.wait_ready(range(3))
        pods.members(everybody(3))

    with Load(pods, "all at other addresses", timeout="60s"):
        before = [pods.address(index) for index in range(3)]
        for index in range(3):
            docker("rm", "--force", pods.name(index))
        for index in (2, 0, 1):
            pods.create(index)
        pods.wait_ready(range(3))
        pods.members(everybody(3))
        assert [pods.address(index) for index in range(3)] != before

    endpoint = f"{pods.domain}:8400"
    ask = ("run", "--rm", "--network", pods.network, IMAGE)
    docker(*ask, "set", "kept", "yes", "--endpoints", endpoint)
    copy = run("docker", "exec", pods.name(0), "/mokv", "snapshot", "save", "-", text=False).stdout
    docker(*ask, "set", "kept", "no", "--endpoints", endpoint)
    before = pods.members(everybody(3))
    pods.sleep()
    for index in (1, 2):
        docker("volume", "rm", pods.volume(index))
    volume = pathlib.Path(docker("volume", "inspect", "--format", "{{.Mountpoint}}", pods.volume(0)))
    (volume / "data").rename(volume / "data.old")
    (volume / "backup.snap").write_bytes(copy)
    home = "/var/lib/mokv"
    docker(
        "run", "--rm", "--user", "65532:65532", "--volume", f"{pods.volume(0)}:{home}", IMAGE,
        "snapshot", "restore", f"{home}/backup.snap", "--data-dir", f"{home}/data", "--name", f"{RELEASE}-0",
    )
    pods.scale(1)
    pods.scale(3)
    after = pods.members(everybody(3))
    assert not {m["node_id"] for m in before.values()} & {m["node_id"] for m in after.values()}, (before, after)
    assert docker(*ask, "get", "kept", "--endpoints", endpoint) == "yes"
    print("restored from a copy: a new cluster with what was saved")

    said = docker("run", "--rm", "--network", pods.network, IMAGE, "check", "--endpoints", f"{pods.domain}:8400")
    print(f"helm test: {said}")


def main():
    work = pathlib.Path(tempfile.mkdtemp())
    pods = Pods(work)
    try:
        play(pods)
        print("8 passed, 0 failed")
    except BaseException:
        for index in range(5):
            if pods.exists(index):
                print(f"--- {RELEASE}-{index}\n{docker('logs', '--tail', '30', pods.name(index), check=False)}")
        raise
    finally:
        pods.end()
        shutil.rmtree(work, ignore_errors=True)


main()
