//! PodTopologyLabels: a pod knows the zone and region of its node, from the moment it is bound.

use futures::future::BoxFuture;
use serde_json::{Map, Value};

use super::{Attempt, Plugin};
use crate::error::Status;
use crate::kinds::kind::Stored;
use crate::live;
use crate::objects::Objects;

const LABELS: [&str; 2] = ["topology.kubernetes.io/region", "topology.kubernetes.io/zone"];

pub(super) struct TopologyLabels {
    objects: Objects,
    nodes: Stored,
}

impl TopologyLabels {
    pub(super) fn new(objects: Objects) -> TopologyLabels {
        TopologyLabels { objects, nodes: live::stored("", "nodes", "v1", "Node") }
    }

    fn of_node(&self, name: &str) -> Result<Map<String, Value>, Status> {
        let Some(node) = self.objects.get(&self.nodes, "", name)? else { return Ok(Map::new()) };
        let labels = &node.value()?["metadata"]["labels"];
        let known = LABELS.iter().filter(|label| labels[label].is_string());
        Ok(known.map(|label| ((*label).to_owned(), labels[label].clone())).collect())
    }

    fn fill_in(&self, attempt: &mut Attempt<'_>) -> Result<(), Status> {
        let is_create = attempt.is_create();
        let of_pods = attempt.is_below("", "pods");
        let Some(object) = attempt.object.as_mut().filter(|_| is_create && of_pods) else {
            return Ok(());
        };
        let node = match attempt.subresource {
            "" => &object["spec"]["nodeName"],
            "binding" if object["target"]["kind"] == "Node" => &object["target"]["name"],
            _ => return Ok(()),
        };
        let Some(node) = node.as_str().filter(|name| !name.is_empty()) else { return Ok(()) };
        let labels = self.of_node(node)?;
        for (label, value) in labels {
            object["metadata"]["labels"][label] = value;
        }
        Ok(())
    }
}

impl Plugin for TopologyLabels {
    fn name(&self) -> &'static str {
        "PodTopologyLabels"
    }

    fn mutate<'a>(&'a self, attempt: &'a mut Attempt<'_>) -> BoxFuture<'a, Result<(), Status>> {
        let filled = self.fill_in(attempt);
        Box::pin(async { filled })
    }
}
