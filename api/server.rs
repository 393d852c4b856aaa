//! The whole of an API server over one replica: every room, put together once.
//!
//! A role builds a [`Server`], hands its [`Server::router`] to a listener, and polls [`Server::run`] as long as
//! it lives.

use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use kontiki_raft::Replica;

use crate::admission::{self, Sources};
use crate::audit::Audit;
use crate::auth::authenticate::Authentication;
use crate::auth::authorize::Authorization;
use crate::auth::bootstrap_token::BootstrapTokens;
use crate::auth::reviews::Reviews;
use crate::auth::tokens::Tokens;
use crate::auth::tokens::keys::{self, Keys};
use crate::auth::{Authenticator, Authorizer};
use crate::bootstrap;
use crate::client::Client;
use crate::http::{Check, Front, Health, Limits, Metrics, Page};
use crate::kinds::Registry;
use crate::live::Live;
use crate::node::{self, Channel, Peers, Sessions};
use crate::object::time::Clock;
use crate::objects::Objects;
use crate::pipeline::{Compaction, Networks, Parts, Road};
use crate::request::User;

/// What differs from server to server.
pub struct Config {
    /// What every cluster holds, and where clients find it.
    pub bootstrap: bootstrap::Config,
    pub networks: Networks,
    /// PEM of the private key that signs service accounts' tokens.
    pub token_key: String,
    /// PEMs of keys whose tokens are still good.
    pub older_token_keys: Vec<String>,
    /// Named in each token.
    pub issuer: String,
    /// Who shows nothing may ask, as `system:anonymous`.
    pub anonymous: bool,
    pub deny_external_ips: bool,
    pub limits: Limits,
    pub clock: Clock,
    /// Finds out who asks; certificates and tokens, where nothing else is given.
    pub authenticator: Option<Arc<dyn Authenticator>>,
    /// The other masters, through which nodes are reached whose agents are not here.
    pub peers: Option<Peers>,
    /// Where requests are written down, if anywhere.
    pub audit: Option<Arc<Audit>>,
}

impl Config {
    /// What is sensible where nothing is said.
    #[must_use]
    pub fn new(bootstrap: bootstrap::Config, token_key: String) -> Config {
        let networks =
            Networks { services: bootstrap.service_cidrs.clone(), ..Networks::default() };
        Config {
            bootstrap,
            networks,
            token_key,
            older_token_keys: Vec::new(),
            issuer: "https://kubernetes.default.svc.cluster.local".into(),
            anonymous: true,
            deny_external_ips: false,
            limits: Limits::default(),
            clock: Clock::System,
            authenticator: None,
            peers: None,
            audit: None,
        }
    }
}

/// An API server. Cheap to clone.
#[derive(Clone)]
pub struct Server {
    road: Arc<Road>,
    front: Arc<Front>,
    sessions: Sessions,
    live: Arc<Live>,
    bootstrap: Arc<bootstrap::Config>,
    /// What every cluster holds is there.
    begun: Arc<watch::Sender<bool>>,
    stop: CancellationToken,
}

impl Server {
    /// Puts the rooms together. `stop` ends the watches that are open.
    pub fn new(
        replica: Replica,
        config: Config,
        stop: CancellationToken,
    ) -> Result<Server, keys::Error> {
        let objects = Objects::new(replica.clone());
        let clock = config.clock;
        let live = Arc::new(Live::default());
        let keys = Keys::read(&config.token_key, &config.older_token_keys)?;
        let tokens = Arc::new(Tokens::new(keys, &config.issuer, objects.clone(), clock.clone()));
        let authentication = Arc::new(Authentication::new(
            tokens.clone(),
            BootstrapTokens::new(objects.clone(), clock.clone()),
            clock.clone(),
            config.anonymous,
        ));
        let authorizer: Arc<dyn Authorizer> = Arc::new(Authorization::new(live.clone()));
        let sources = Sources {
            live: live.clone(),
            objects: objects.clone(),
            authorizer: authorizer.clone(),
            clock: clock.clone(),
        };
        let reviewer = Arc::new(Reviews::new(
            authentication.clone(),
            authorizer.clone(),
            live.clone(),
            clock.clone(),
        ));
        let road = Arc::new(Road::new(Parts {
            objects,
            registry: Arc::new(Registry::builtin()),
            admission: admission::plugins(&sources, config.deny_external_ips),
            authorizer,
            reviewer,
            tokens: tokens.clone(),
            networks: config.networks,
            beats: live.beats.clone(),
            audit: config.audit.clone(),
            clock,
        }));
        let health = Arc::new(Health::default());
        let begun = Arc::new(watch::Sender::new(false));
        watch_over(&health, &replica, &live, begun.subscribe());
        let sessions = Sessions::new(node::Parts {
            road: road.clone(),
            live: live.clone(),
            peers: config.peers,
            stop: stop.child_token(),
        });
        let metrics = Arc::new(metrics(config.audit.as_deref()));
        metrics.register(|registry| node::count(&sessions, registry));
        let front = Arc::new(Front {
            road: road.clone(),
            authenticator: config.authenticator.unwrap_or(authentication),
            health,
            metrics,
            limits: config.limits,
            nodes: Arc::new(sessions.clone()),
            pages: pages(&tokens, &config.bootstrap.server),
            address: config.bootstrap.server.trim_start_matches("https://").to_owned(),
            audit: config.audit,
            stop: stop.clone(),
        });
        let bootstrap = Arc::new(config.bootstrap);
        Ok(Server { road, front, sessions, live, bootstrap, begun, stop })
    }

    /// For the listener.
    pub fn router(&self) -> axum::Router {
        let nodes = node::router(&self.sessions, self.front.authenticator.clone());
        nodes.merge(crate::http::router(self.front.clone()))
    }

    /// Of the agents that are connected to this master.
    #[must_use]
    pub fn sessions(&self) -> &Sessions {
        &self.sessions
    }

    /// The way here for the agent of `node`, in this process.
    #[must_use]
    pub fn node_channel(&self, node: &str) -> Channel {
        Channel::here(&self.sessions, node)
    }

    #[must_use]
    pub fn road(&self) -> &Arc<Road> {
        &self.road
    }

    /// Waits until requests can be served: the tables are read, and what every cluster holds is there.
    pub async fn ready(&self) {
        // The sender lives as long as this does.
        let _ = self.begun.subscribe().wait_for(|begun| *begun).await;
    }

    #[must_use]
    pub fn live(&self) -> &Arc<Live> {
        &self.live
    }

    #[must_use]
    pub fn health(&self) -> &Arc<Health> {
        &self.front.health
    }

    #[must_use]
    pub fn metrics(&self) -> &Arc<Metrics> {
        &self.front.metrics
    }

    /// A part of the control plane that speaks to this server without a wire.
    #[must_use]
    pub fn client(&self, name: &str) -> Client {
        self.road.client(User::system(&format!("system:{name}")), name)
    }

    /// Everything that goes on beside requests, until the server is told to stop.
    pub async fn run(&self) {
        let compaction = Compaction::new(self.road.objects().clone());
        let client = self.client("apiserver");
        let begun = async {
            self.live.ready().await;
            bootstrap::bootstrap_until_done(&client, &self.bootstrap).await;
            self.begun.send_replace(true);
        };
        tokio::select! {
            () = self.stop.cancelled() => {}
            () = async {
                tokio::join!(
                    self.live.run(self.road.objects()),
                    self.sessions.run(),
                    begun,
                    compaction.run(),
                );
            } => {}
        }
    }
}

fn metrics(audit: Option<&Audit>) -> Metrics {
    let metrics = Metrics::default();
    if let Some(audit) = audit {
        metrics.register(|registry| {
            let what = "Audit events that were written";
            registry.register("apiserver_audit_event", what, audit.written.clone());
            let what = "Audit events that could not be written";
            registry.register("apiserver_audit_error", what, audit.failed.clone());
        });
    }
    metrics
}

/// What has to be well before a client should come here.
fn watch_over(health: &Health, replica: &Replica, live: &Arc<Live>, begun: watch::Receiver<bool>) {
    let store = replica.clone();
    health.add(Check {
        name: "store",
        live: false,
        ask: Arc::new(move || {
            let store = store.clone();
            Box::pin(async move { store.read_barrier().await.map_err(|error| error.to_string()) })
        }),
    });
    let live = live.clone();
    health.add(Check {
        name: "tables",
        live: false,
        ask: Arc::new(move || {
            let live = live.clone();
            Box::pin(async move {
                let filled = futures::FutureExt::now_or_never(live.ready());
                filled.ok_or_else(|| "they are being read".to_owned())
            })
        }),
    });
    health.add(Check {
        name: "bootstrap",
        live: false,
        ask: Arc::new(move || {
            let begun = *begun.borrow();
            Box::pin(async move {
                if begun { Ok(()) } else { Err("the cluster's defaults are being made".into()) }
            })
        }),
    });
}

/// By which service accounts' tokens are verified elsewhere.
fn pages(tokens: &Arc<Tokens>, server: &str) -> Vec<Page> {
    const JWKS: &str = "/openid/v1/jwks";
    let jwks_uri = format!("{}{JWKS}", server.trim_end_matches('/'));
    let issuer = tokens.issuer().to_owned();
    let of = tokens.clone();
    vec![
        Page {
            path: "/.well-known/openid-configuration".into(),
            content_type: "application/json",
            body: Arc::new(move || Bytes::from(keys::discovery(&issuer, &jwks_uri).to_string())),
        },
        Page {
            path: JWKS.into(),
            content_type: "application/jwk-set+json",
            body: Arc::new(move || Bytes::from(of.keys().jwks().to_string())),
        },
    ]
}
