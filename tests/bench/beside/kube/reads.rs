//! Single pods and lists of all of them, in each form that clients ask for.

use super::client::{Ask, Client, JSON};
use super::figures::{Beside, Figures, Goal};
use super::master::Master;
use super::objects::{LISTED, after, name, pods};
use crate::Failure;
use crate::load::drive;
use crate::options::Options;

const METADATA: &str = "application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io";
const TABLE: &str = "application/json;as=Table;v=v1;g=meta.k8s.io";

/// A way to read all pods.
#[derive(Clone, Copy)]
struct List {
    what: &'static str,
    query: &'static str,
    accept: &'static str,
    /// An answer for one pod is at least so long.
    pod_bytes_min: usize,
    /// Processor time of kube-apiserver for 10,000 pods.
    beside_cpu_ms: Option<f64>,
    goal_cpu_ms: Option<f64>,
}

const LISTS: [List; 5] = [
    List {
        what: "LIST, full",
        query: "",
        accept: JSON,
        pod_bytes_min: 3000,
        beside_cpu_ms: Some(350.0),
        goal_cpu_ms: Some(40.0),
    },
    List {
        what: "LIST, pages of 500",
        query: "?limit=500",
        accept: JSON,
        pod_bytes_min: 3000,
        beside_cpu_ms: Some(580.0),
        goal_cpu_ms: None,
    },
    List {
        what: "LIST, one in 100 by label",
        query: "?labelSelector=selected%3Dyes",
        accept: JSON,
        pod_bytes_min: 30,
        beside_cpu_ms: None,
        goal_cpu_ms: None,
    },
    List {
        what: "LIST, metadata only",
        query: "",
        accept: METADATA,
        pod_bytes_min: 500,
        beside_cpu_ms: Some(280.0),
        goal_cpu_ms: Some(60.0),
    },
    List {
        what: "LIST, Table",
        query: "",
        accept: TABLE,
        pod_bytes_min: 500,
        beside_cpu_ms: Some(380.0),
        goal_cpu_ms: None,
    },
];

pub async fn measure(
    options: &Options,
    master: &Master,
    count: usize,
    figures: &mut Figures,
) -> Result<(), Failure> {
    if options.wants("get") {
        for &clients in &options.clients {
            let workers = master.access.clients(clients).await?.into_iter().enumerate();
            let workers = workers.map(|(at, client)| (client, at)).collect();
            let ask = move |(mut client, at): (Client, usize)| async move {
                let path = format!("{}/{}", pods(LISTED), name(at % count));
                client.ask(Ask::get(path)).await?;
                Ok((client, at + 61))
            };
            let done = drive(options, master, workers, ask).await?;
            let alone = clients == 1;
            let beside = Beside { p50_ms: alone.then_some(1.4), ..Beside::default() };
            figures.rate("GET", clients, done, beside, alone.then_some(Goal::P50Ms(0.3)));
        }
    }
    if options.wants("list") {
        for list in LISTS {
            let workers = vec![master.client().await?];
            let ask = move |client: Client| async move {
                let bytes = list.read(client, count).await?;
                Ok(bytes)
            };
            let done = drive(options, master, workers, ask).await?;
            let whole = count == super::PODS;
            let beside = list.beside_cpu_ms.filter(|_| whole);
            let beside = Beside { cpu_ms: beside, ..Beside::default() };
            let goal = list.goal_cpu_ms.filter(|_| whole).map(Goal::CpuMs);
            figures.rate(list.what, 1, done, beside, goal);
        }
    }
    Ok(())
}

impl List {
    /// All of it, whatever number of answers that takes.
    async fn read(self, mut client: Client, count: usize) -> Result<Client, Failure> {
        let (mut read, mut go_on) = (0, String::new());
        loop {
            let path = format!("{}{}{go_on}", pods(LISTED), self.query);
            let answer = client.ask(Ask { accept: self.accept, ..Ask::get(path) }).await?;
            read += answer.len();
            // What goes on is said before the items, or after them.
            let token = std::str::from_utf8(&answer).ok().and_then(|text| {
                let edge = 2000.min(text.len());
                let (head, tail) = (text.get(..edge)?, text.get(text.len() - edge..)?);
                after(head, "\"continue\":\"").or_else(|| after(tail, "\"continue\":\""))
            });
            match token {
                Some(token) if !token.is_empty() && !self.query.is_empty() => {
                    go_on = format!("&continue={token}");
                }
                _ => break,
            }
        }
        if read < count * self.pod_bytes_min {
            return Err(format!("{}: {read} bytes are too few", self.what).into());
        }
        Ok(client)
    }
}
