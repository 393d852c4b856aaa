"""Helm as a library: a chart is installed, upgraded and taken away."""

import asyncio
import os

import helm_sdkpy as helm
from kubernetes import client, config

NAMESPACE = "charts"
CHART = os.path.join(os.environ["CLIENTS"], "chart")
config.load_kube_config()
core, apps = client.CoreV1Api(), client.AppsV1Api()


def colour():
    return core.read_namespaced_config_map("demo", NAMESPACE).data["color"]


async def walk():
    settings = helm.Configuration(namespace=NAMESPACE, kubeconfig=os.environ["KUBECONFIG"])
    await helm.Install(settings).run("demo", CHART, create_namespace=True, wait=False)
    assert colour() == "red"
    values = {"color": "blue", "replicas": 2}
    await helm.Upgrade(settings).run("demo", CHART, values=values, wait=False)
    assert colour() == "blue"
    assert apps.read_namespaced_deployment("demo", NAMESPACE).spec.replicas == 2
    # Its rollback asks Helm for no way of waiting, which Helm refuses: that is walked on the command line.
    await helm.Upgrade(settings).run("demo", CHART, values={"color": "green"}, wait=False)
    assert colour() == "green"
    history = await helm.History(settings).run("demo")
    assert len(history) == 3, history
    assert len(await helm.List(settings).run()) == 1
    await helm.Uninstall(settings).run("demo", wait=False)
    assert not core.list_namespaced_service(NAMESPACE).items
    assert not core.list_namespaced_secret(NAMESPACE, label_selector="owner=helm").items


asyncio.run(walk())
