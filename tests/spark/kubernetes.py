"""A Kubernetes for tests: whichever KUBECONFIG names. What runs there is in a namespace of this run's own.

KUBECONFIG            the cluster, and who we are for it; `kubectl` has to be there
K8S_IMAGE    an image with Spark, Python and what sparkray needs (examples/kubernetes/Dockerfile)
K8S_MOUNT=1  the image has next to nothing: its pods see this host's /usr, Python and environment instead
                      (a cluster whose only node is this host)
K8S_CONF     further settings of Spark, as JSON
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pyspark

from tests.waiting import wait_until

EXECUTOR_MIB = 600  # of heap, and again as much beside it
ROOT = Path(__file__).parents[2]
HOME = Path(str(pyspark.__file__)).parent
ENTRY_POINT = ROOT / "examples/kubernetes/entrypoint.sh"
GONE_S = 30.0  # for pods: Kubernetes gives a container two seconds to end here, and looks every few
ACCOUNT = "spark"  # of drivers in pods: may make pods
_ROLE = f"""
apiVersion: v1
kind: ServiceAccount
metadata: {{name: {ACCOUNT}}}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {{name: {ACCOUNT}}}
roleRef: {{apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: edit}}
subjects: [{{kind: ServiceAccount, name: {ACCOUNT}}}]
"""


def why_not() -> str | None:
    """Why no test can run here."""
    missing = [name for name in ("KUBECONFIG", "K8S_IMAGE") if not os.environ.get(name)]
    return f"{' and '.join(missing)} not set (docs/kubernetes.md: Running the tests)" if missing else None


class Kubernetes:
    def __init__(self) -> None:
        self.image = os.environ["K8S_IMAGE"]
        self.mounts = os.environ.get("K8S_MOUNT") == "1"
        self.namespace = f"sparkray-{os.getpid()}"
        server = "{.clusters[0].cluster.server}"
        self.master = "k8s://" + self.kubectl("config", "view", "--minify", "-o", f"jsonpath={server}", namespace=False)

    def start(self) -> None:
        self.kubectl("create", "namespace", self.namespace, namespace=False)
        self.kubectl("apply", "-f", "-", given=_ROLE)

    def stop(self) -> None:
        """And wait until nothing is left of it."""
        self.kubectl("delete", "pods", "--all", "--grace-period=1", "--wait=false")
        self.kubectl("delete", "namespace", self.namespace, "--timeout=120s", namespace=False)

    def kubectl(self, *words: str, given: str | None = None, namespace: bool = True) -> str:
        where = ["--namespace", self.namespace] if namespace else []
        done = subprocess.run(
            ["kubectl", *where, *words], input=given, capture_output=True, text=True, timeout=150, check=False
        )
        assert done.returncode == 0, f"kubectl {' '.join(words)}: {done.stderr}"
        return done.stdout

    def settings(self, role: str = "executor") -> dict[str, str]:
        """For Spark on it, so that its pods are small and find what they need."""
        found = {
            "spark.kubernetes.namespace": self.namespace,
            f"spark.kubernetes.{role}.request.cores": "0.1",
            "spark.kubernetes.executor.deleteOnTermination": "true",
            "spark.kubernetes.allocation.batch.delay": "200ms",
            "spark.kubernetes.container.image.pullPolicy": "IfNotPresent",
        }
        if self.mounts:
            for name, place in self.places().items():
                volume = f"spark.kubernetes.{role}.volumes.hostPath.{name}"
                found |= {f"{volume}.mount.path": place, f"{volume}.options.path": place}
                found[f"{volume}.mount.readOnly"] = "true"
            environment = "spark.executorEnv" if role == "executor" else "spark.kubernetes.driverEnv"
            found[f"{environment}.SPARK_HOME"] = str(HOME)
        more: Mapping[str, str] = json.loads(os.environ.get("K8S_CONF", "{}"))
        return {**found, **more}

    def master_in_pods(self) -> str:
        """By which pods reach the API server."""
        if not self.mounts:
            return self.settings().get("spark.kubernetes.driver.master", "https://kubernetes.default.svc")
        node = self.kubectl("get", "nodes", "-o", _ADDRESS, namespace=False)
        return self.master.removeprefix("k8s://").replace("127.0.0.1", node)

    def run_pod(self, name: str, *words: str) -> None:
        """Start a pod of the image, with the account that may make others."""
        volumes = [{"name": key, "hostPath": {"path": place}} for key, place in self.places().items()]
        container = {
            "name": name,
            "image": self.image,
            "imagePullPolicy": "IfNotPresent",
            "command": list(words),
            "volumeMounts": [
                {"name": key, "mountPath": place, "readOnly": True} for key, place in self.places().items()
            ],
        }
        spec = {"serviceAccountName": ACCOUNT, "restartPolicy": "Never", "containers": [container], "volumes": volumes}
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": spec}
        self.kubectl("apply", "-f", "-", given=json.dumps(pod))

    def places(self) -> dict[str, str]:
        """What the pods see of this host."""
        if not self.mounts:
            return {}
        found = {"usr": "/usr", "python": sys.base_prefix, "environment": sys.prefix, "source": str(ROOT)}
        outer = [f"{place}/" for place in found.values()]
        return {name: place for name, place in found.items() if not place.startswith(tuple(outer))}

    def settings_in_cluster_mode(self, folder: Path) -> dict[str, str]:
        """Of driver and executors. Where the image has no entry point for a driver, it is lent ours."""
        found = self.settings("driver") | self.settings("executor")
        found["spark.kubernetes.authenticate.driver.serviceAccountName"] = ACCOUNT
        if self.mounts:
            # There may be no DNS, and no way to a Service.
            found["spark.kubernetes.executor.useDriverPodIP"] = "true"
            found["spark.kubernetes.driver.master"] = self.master_in_pods()
            template = folder / "driver.yaml"
            template.write_text(_TEMPLATE.format(command=ENTRY_POINT))
            found["spark.kubernetes.driver.podTemplateFile"] = str(template)
        return found

    def pods(self, selector: str = "") -> dict[str, dict[str, Any]]:
        found = json.loads(self.kubectl("get", "pods", "-o", "json", *(["-l", selector] if selector else [])))
        return {pod["metadata"]["name"]: pod for pod in found["items"]}

    def logs(self, pod: str) -> str:
        """What it has said so far. On this host by its files: the API server may not find the node by its name."""
        if not self.mounts:
            with contextlib.suppress(AssertionError):  # it has not begun
                return self.kubectl("logs", pod)
            return ""
        files = sorted(Path("/var/log/pods").glob(f"{self.namespace}_{pod}_*/*/*.log"))
        # Each line has a time, the stream and a mark in front.
        return "".join(line.split(" ", 3)[3] for file in files for line in file.read_text().splitlines(keepends=True))

    def left(self, application: str) -> list[str]:
        """What there is of an application of Spark's, of whatever kind."""
        kinds = "pods,configmaps,services,persistentvolumeclaims"
        return self.kubectl("get", kinds, "-o", "name", "-l", f"spark-app-selector={application}").split()

    def wait_until_gone(self, application: str) -> None:
        wait_until(lambda: not self.left(application), f"nothing is left of {application}", GONE_S)

    def pod_at(self, address: str) -> str:
        """The pod with this address."""
        return next(name for name, pod in self.pods().items() if pod["status"].get("podIP") == address)


_ADDRESS = 'jsonpath={.items[0].status.addresses[?(@.type=="InternalIP")].address}'
_TEMPLATE = """
apiVersion: v1
kind: Pod
spec:
  containers:
  - name: driver
    command: ["bash", "{command}"]
"""


@contextlib.contextmanager
def running_kubernetes() -> Iterator[Kubernetes]:
    kubernetes = Kubernetes()
    kubernetes.start()
    try:
        yield kubernetes
    finally:
        kubernetes.stop()
