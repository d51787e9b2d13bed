"""Checks what this folder deploys, as far as that goes without Docker and Kubernetes: `cargo xtask test --only deploy`.

The Dockerfiles pass hadolint, and their context is a workspace of Cargo. The chart passes Helm's own lint, and renders, with
values that turn on all it has, to objects that the schemas of Kubernetes accept; wrong values are refused. Compose's file
matches its schema. Rules and settings of Prometheus pass promtool (argv[1], if it is there), and the metrics they ask for
exist.
"""

import copy
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile

import helm_python
import kubernetes_validate
import yaml

HERE = pathlib.Path(__file__).resolve().parent
CHART = HERE / "helm" / "lenslet-server"
BIN = pathlib.Path(sys.executable).parent
KUBERNETES = "1.33"

PLAIN = {"models": {"existingClaim": "models"}}

EVERYTHING = {
    "models": {"names": ["clip=/models/clip-vit-large", "emoji-clip"], "volume": {"hostPath": {"path": "/srv/models"}}},
    "image": {"tag": "cuda"},
    "config": "[limits]\nrequests_per_second = 20.0\n",
    "engine": {"kind": "ort", "device": "cuda"},
    "apiKeys": {"existingSecret": "lenslet-keys"},
    "env": [{"name": "OTEL_EXPORTER_OTLP_ENDPOINT", "value": "http://collector:4318"}],
    "drain": {"graceSeconds": 8, "limitSeconds": 60},
    "resources": {"limits": {"nvidia.com/gpu": 1, "memory": "24Gi"}},
    "nodeSelector": {"nvidia.com/gpu.present": "true"},
    "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}],
    "runtimeClassName": "nvidia",
    "podAnnotations": {"example.com/team": "search"},
    "autoscaling": {"enabled": True},
    "serviceMonitor": {"enabled": True, "labels": {"release": "prometheus"}, "authorization": {"secret": "scrape"}},
    "worker": {"enabled": True, "replicaCount": 3, "resources": {"requests": {"cpu": "2"}}},
    "nats": {"existingSecret": "nats"},
}

failures = 0


def check(what, good, detail=""):
    """Notes how a check ended."""
    global failures
    failures += not good
    print(("ok     " if good else "FAILED ") + what)
    if detail and not good:
        print("       " + detail)


def run(what, *command, **options):
    """A program that must succeed."""
    result = subprocess.run([str(word) for word in command], capture_output=True, text=True, **options)
    check(what, result.returncode == 0, result.stdout + result.stderr)


def merged(values, **changes):
    """Values with some of them changed."""
    values = copy.deepcopy(values)
    for name, change in changes.items():
        values[name] = {**values.get(name, {}), **change} if isinstance(change, dict) else change
    return values


def render(values):
    """The chart's objects by kind and name."""
    rendered = helm_python.Chart.load(CHART).render(values, name="demo", namespace="ml")
    texts = [text for path, text in rendered.items() if path.endswith(".yaml")]
    objects = [thing for text in texts for thing in yaml.safe_load_all(text) if thing]
    return {(thing["kind"], thing["metadata"]["name"]): thing for thing in objects}


def check_dockerfiles():
    for name in ["Dockerfile", "Dockerfile.cuda"]:
        run(f"{name}: hadolint", BIN / "hadolint", "--no-color", "--failure-threshold", "info", HERE / name)
        text = (HERE / name).read_text()
        last = text[text.rindex("\nFROM ") :]
        check(f"{name}: does not run as root", re.search(r"^USER [1-9]\d*:[1-9]\d*$", last, re.M))
        # What the image is told is what the server knows.
        flags = (HERE / "../src/config/args.rs").read_text()
        for variable in re.findall(r"\b(LENSLET_\w+|ORT_\w+)=", last):
            known = f'"{variable}"' in flags or variable == "LENSLET_MODELS"
            check(f"{name}: the server reads {variable}", known)


def check_context():
    """The images' context has what Cargo looks for in a workspace: a copy of what .dockerignore lets through is one."""
    root = HERE.parents[1]
    lines = (root / ".dockerignore").read_text().split()
    passed = [line[1:] for line in lines if line.startswith("!")]
    with tempfile.TemporaryDirectory() as folder:
        copy_root = pathlib.Path(folder)
        for path in [path for pattern in passed for path in root.glob(pattern)]:
            target = copy_root / path.relative_to(root)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copytree(path, target) if path.is_dir() else shutil.copy(path, target)
        # Looks at all manifests and their targets, and has nothing to fetch: this very workspace is built from it.
        fetch = ["cargo", "fetch", "--locked", "--offline", "--target", "x86_64-unknown-linux-gnu"]
        run(".dockerignore: what it lets through is a workspace", *fetch, cwd=folder)


def check_chart():
    for what, values in [("plain", PLAIN), ("everything", EVERYTHING)]:
        report = helm_python.lint(CHART, values, strict=True, kube_version=f"v{KUBERNETES}.0")
        bad = [message for message in report["messages"] if message["severity"] >= 2] + report["errors"]
        check(f"chart, {what}: helm lint --strict", not bad, str(bad))
        for (kind, name), thing in render(values).items():
            try:
                if thing["apiVersion"].startswith("monitoring.coreos.com/"):
                    continue
                kubernetes_validate.validate(thing, KUBERNETES, strict=True)
                check(f"chart, {what}: {kind} {name}", True)
            except kubernetes_validate.ValidationError as error:
                check(f"chart, {what}: {kind} {name}", False, str(error))

    objects = render(EVERYTHING)
    server, worker = objects["Deployment", "demo-lenslet-server"], objects["Deployment", "demo-lenslet-server-worker"]
    for role, deployment in [("server", server), ("worker", worker)]:
        template = deployment["spec"]["template"]
        pod, labels = template["spec"], template["metadata"]["labels"]
        container = pod["containers"][0]
        wanted = deployment["spec"]["selector"]["matchLabels"]
        check(f"chart: {role} selects its own pods", wanted.items() <= labels.items() and wanted["app.kubernetes.io/component"] == role)
        check(f"chart: {role} ends after it has drained", pod["terminationGracePeriodSeconds"] > 8 + 60)
        check(f"chart: {role} is not root", pod["securityContext"]["runAsNonRoot"])
        check(f"chart: {role} cannot write to its image", container["securityContext"]["readOnlyRootFilesystem"])
        mounts = {mount["name"] for mount in container["volumeMounts"]}
        check(f"chart: {role} mounts all volumes", mounts == {volume["name"] for volume in pod["volumes"]})
        flags = "".join(path.read_text() for path in (HERE / "../src/config").glob("*.rs"))
        named = {variable["name"] for variable in container["env"] if variable["name"].startswith("LENSLET_")}
        unknown = {name for name in named if f'"{name}"' not in flags} - {"LENSLET_MODELS"}
        check(f"chart: {role} is told what it reads", not unknown, str(unknown))
        health = (HERE / "../src/api/mod.rs").read_text()
        for probe in ["livenessProbe", "readinessProbe"]:
            check(f"chart: {role}'s {probe}", container[probe]["httpGet"]["path"] in health)
    service = objects["Service", "demo-lenslet-server"]["spec"]
    labels = server["spec"]["template"]["metadata"]["labels"]
    check("chart: the service finds the server's pods", service["selector"].items() <= labels.items())
    check("chart: autoscaling sets the replicas", "replicas" not in server["spec"])
    config = objects["ConfigMap", "demo-lenslet-server"]["data"]["lenslet.toml"]
    check("chart: the settings arrive", config.strip() == EVERYTHING["config"].strip(), config)
    plain = render(PLAIN)
    check("chart: nothing that is off is there", len(plain) == 5, str(list(plain)))

    for what, values in [
        ("no models", merged(PLAIN, models={"names": []})),
        ("models nowhere", {}),
        ("a misspelt value", merged(PLAIN, replicas=3)),
        ("an unknown device", merged(PLAIN, engine={"device": "tpu"})),
        ("time as text", merged(PLAIN, drain={"limitSeconds": "long"})),
        ("workers without a queue", merged(PLAIN, worker={"enabled": True})),
        ("a queue that is no address", merged(PLAIN, nats={"url": "http://nats:8222"})),
    ]:
        try:
            render(values)
            check(f"chart: {what} is refused", False, "it was rendered")
        except helm_python.HelmError:
            check(f"chart: {what} is refused", True)


def check_kserve():
    runtime = yaml.safe_load((HERE / "kserve/servingruntime.yaml").read_text())
    service = yaml.safe_load((HERE / "kserve/inferenceservice.yaml").read_text())
    # Its pod is one of Kubernetes'; the rest is KServe's.
    spec = runtime["spec"]
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x"}, "spec": {"containers": spec["containers"]}}
    try:
        kubernetes_validate.validate(pod, KUBERNETES, strict=True)
        check("kserve: the runtime's pod", True)
    except kubernetes_validate.ValidationError as error:
        check("kserve: the runtime's pod", False, str(error))
    model = service["spec"]["predictor"]["model"]
    formats = {known["name"] for known in spec["supportedModelFormats"]}
    fits = model["runtime"] == runtime["metadata"]["name"] and model["modelFormat"]["name"] in formats
    check("kserve: the service fits the runtime", fits and model["protocolVersion"] in spec["protocolVersions"])


def check_compose(promtool):
    file = HERE / "compose.yaml"
    run("compose.yaml: schema", BIN / "check-jsonschema", "--builtin-schema", "vendor.compose-spec", file)
    compose = yaml.safe_load(file.read_text())
    flags = "".join(path.read_text() for path in (HERE / "../src/config").glob("*.rs"))
    for name, service in compose["services"].items():
        for variable in service.get("environment", {}):
            check(f"compose.yaml: {name} reads {variable}", f'"{variable}"' in flags)
        for volume in service.get("volumes", []):
            source = volume.split(":")[0]
            there = (HERE / source).exists() if source.startswith(".") else source in compose["volumes"]
            check(f"compose.yaml: {name} mounts {source}", there)
    metrics = set(re.findall(r'"((?:lenslet|process)_\w+)"', (HERE / "../src/metrics.rs").read_text()))
    for path in ["alerts.yml", "helm/lenslet-server/templates/hpa.yaml"]:
        asked = set(re.findall(r"\b(?:lenslet|process)_\w+", (HERE / path).read_text()))
        asked = {re.sub(r"_(bucket|sum|count)$", "", name) for name in asked}
        check(f"{path}: the metrics exist", asked <= metrics, str(asked - metrics))
    if promtool:
        run("prometheus.yml: promtool", promtool, "check", "config", HERE / "prometheus.yml")
        run("alerts.yml: promtool", promtool, "test", "rules", HERE / "alerts_test.yml")
    else:
        print("left out: prometheus.yml and alerts.yml, no promtool")


check_dockerfiles()
check_context()
check_chart()
check_kserve()
check_compose(pathlib.Path(sys.argv[1]).resolve() if len(sys.argv) > 1 else None)
sys.exit(failures > 0)
