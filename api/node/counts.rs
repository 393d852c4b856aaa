//! What a master's `/metrics` says of its agents.

use std::fmt;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric as _};
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;

use super::Sessions;

struct Now(Sessions);

/// `kontiki_node_sessions`: the agents that are connected to this master.
pub(crate) fn register(sessions: &Sessions, registry: &mut Registry) {
    registry.register_collector(Box::new(Now(sessions.clone())));
}

impl fmt::Debug for Now {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Now")
    }
}

impl Collector for Now {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let count = ConstGauge::new(i64::try_from(self.0.count()).unwrap_or(i64::MAX));
        let help = "Agents of nodes that are connected to this master";
        let kind = count.metric_type();
        count.encode(encoder.encode_descriptor("kontiki_node_sessions", help, None, kind)?)
    }
}
