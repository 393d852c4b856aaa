"""An operator of kopf: it sees an object come, changes it, and lets it go through its finalizer."""

import threading
import time

import kopf
from kubernetes import client, config

NAMESPACE = "operated"
config.load_kube_config()
core = client.CoreV1Api()
core.create_namespace({"metadata": {"name": NAMESPACE}})
gone = threading.Event()


@kopf.on.create("configmaps", labels={"operated": "yes"})
def made(name, patch, **_):
    patch.setdefault("data", {})["seen"] = name


@kopf.on.delete("configmaps", labels={"operated": "yes"})
def deleted(**_):
    gone.set()


def until(what, look):
    end = time.monotonic() + 60
    while time.monotonic() < end:
        if look():
            return
        time.sleep(0.05)
    raise AssertionError(f"{what} has not come")


def missing():
    there = core.list_namespaced_config_map(NAMESPACE, label_selector="operated")
    return not there.items


stop = threading.Event()
ready = threading.Event()
run = threading.Thread(
    target=kopf.run,
    kwargs={"standalone": True, "namespace": NAMESPACE, "stop_flag": stop, "ready_flag": ready},
)
run.start()
try:
    assert ready.wait(60), "the operator does not start"
    core.create_namespaced_config_map(
        NAMESPACE, {"metadata": {"name": "x", "labels": {"operated": "yes"}}, "data": {"a": "b"}}
    )
    read = lambda: core.read_namespaced_config_map("x", NAMESPACE)
    until("the operator's change", lambda: (read().data or {}).get("seen") == "x")
    assert read().metadata.finalizers, "it holds what it watches"
    core.delete_namespaced_config_map("x", NAMESPACE)
    until("the end", missing)
    assert gone.is_set()
finally:
    stop.set()
    run.join()
