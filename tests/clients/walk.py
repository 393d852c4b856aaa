"""The Python client against a master: typed, dynamic, paged, watched, applied."""

import json

from kubernetes import client, config, dynamic, watch
from kubernetes.client.rest import ApiException

config.load_kube_config()
core, apps = client.CoreV1Api(), client.AppsV1Api()
NAMESPACE = "python"


def refused(status, reason, call, *arguments):
    try:
        call(*arguments)
    except ApiException as error:
        body = json.loads(error.body)
        assert (error.status, body["reason"]) == (status, reason), error
        return body
    raise AssertionError(f"{call} should be refused")


def same(is_, wanted):
    assert is_ == wanted, f"{is_!r} is not {wanted!r}"


core.create_namespace(client.V1Namespace(metadata=client.V1ObjectMeta(name=NAMESPACE)))
assert client.VersionApi().get_code().git_version.startswith("v1.37.")

for number in range(5):
    meta = client.V1ObjectMeta(name=f"c{number}", labels={"number": str(number)})
    core.create_namespaced_config_map(NAMESPACE, client.V1ConfigMap(metadata=meta, data={"a": "b"}))
first = core.list_namespaced_config_map(NAMESPACE, label_selector="number", limit=2)
same([it.metadata.name for it in first.items], ["c0", "c1"])
rest = core.list_namespaced_config_map(
    NAMESPACE, label_selector="number", _continue=first.metadata._continue
)
same([it.metadata.name for it in rest.items], ["c2", "c3", "c4"])

refused(404, "NotFound", core.read_namespaced_config_map, "none", NAMESPACE)
refused(409, "AlreadyExists", core.create_namespaced_config_map, NAMESPACE, {"metadata": {"name": "c1"}})
body = refused(422, "Invalid", core.create_namespaced_config_map, NAMESPACE, {"metadata": {"name": "A"}})
same(body["details"]["causes"][0]["field"], "metadata.name")

changed = core.patch_namespaced_config_map("c1", NAMESPACE, {"data": {"x": "y", "a": None}})
same(changed.data, {"x": "y"})
stale = core.read_namespaced_config_map("c1", NAMESPACE)
core.patch_namespaced_config_map("c1", NAMESPACE, {"data": {"x": "z"}})
refused(409, "Conflict", core.replace_namespaced_config_map, "c1", NAMESPACE, stale)

version = core.list_namespaced_config_map(NAMESPACE).metadata.resource_version
core.delete_namespaced_config_map("c2", NAMESPACE)
stream = watch.Watch().stream(
    core.list_namespaced_config_map, NAMESPACE, resource_version=version, timeout_seconds=30
)
event = next(stream)
same((event["type"], event["object"].metadata.name), ("DELETED", "c2"))

pod = client.V1PodSpec(containers=[client.V1Container(name="c", image="i")])
template = client.V1PodTemplateSpec(metadata=client.V1ObjectMeta(labels={"a": "b"}), spec=pod)
selector = client.V1LabelSelector(match_labels={"a": "b"})
spec = client.V1DeploymentSpec(replicas=1, selector=selector, template=template)
made = apps.create_namespaced_deployment(
    NAMESPACE, client.V1Deployment(metadata=client.V1ObjectMeta(name="d"), spec=spec)
)
same((made.spec.strategy.type, made.metadata.generation), ("RollingUpdate", 1))
scaled = apps.patch_namespaced_deployment_scale("d", NAMESPACE, {"spec": {"replicas": 3}})
same(scaled.spec.replicas, 3)

anything = dynamic.DynamicClient(client.ApiClient())
maps = anything.resources.get(api_version="v1", kind="ConfigMap")
wanted = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "applied", "namespace": NAMESPACE}}
applied = maps.server_side_apply(
    body={**wanted, "data": {"k": "v"}}, name="applied", namespace=NAMESPACE, field_manager="python"
)
same(applied.metadata.managedFields[0].operation, "Apply")
same(len(anything.resources.search(api_version="apps/v1", kind="Deployment")), 1)

core.delete_collection_namespaced_config_map(NAMESPACE, label_selector="number in (0, 1)")
left = core.list_namespaced_config_map(NAMESPACE, label_selector="number")
same([it.metadata.name for it in left.items], ["c3", "c4"])
user = client.AuthenticationV1Api().create_self_subject_review({}).status.user_info
same(user.username, "kubernetes-admin")
