//! Files that come from the API: config maps, secrets, the downward API, tokens, trust bundles, and
//! projections of them.
//!
//! Keeps: a token is asked for again when four fifths of its life are over, and when nothing else
//! changed.

use std::collections::{BTreeMap, HashMap};

use k8s_openapi::api::core::v1::{
    ConfigMap, Container, DownwardAPIVolumeFile, KeyToPath, Pod, ProjectedVolumeSource, Secret,
    ServiceAccountTokenProjection, Volume,
};
use kontiki_api::object::time::Timestamp;

use super::{FILE_MODE, trust};
use crate::agent::masters::{Masters, Token, TokenWanted};
use crate::agent::pods::environment::found;
use crate::agent::pods::fields::{self, Place};
use crate::agent::pods::view;

const TOKEN_SECONDS: i64 = 3600;
/// As much as one object can hold, several times.
const BYTES_MAX: usize = 16 << 20;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct File {
    pub bytes: Vec<u8>,
    pub mode: u32,
}

/// The files of a volume by their path below it.
pub type Payload = BTreeMap<String, File>;

/// The tokens that a pod's volumes hold, by volume and path.
#[derive(Default)]
pub struct Tokens(HashMap<String, Held>);

struct Held {
    wanted: TokenWanted,
    token: Token,
    since: Timestamp,
}

impl Held {
    fn is_fresh(&self, now: Timestamp) -> bool {
        let life = self.token.expires.micros_since(self.since);
        now.micros_since(self.since) < life / 5 * 4
    }
}

/// What a volume holds; nothing for a kind that is not made of files from the API.
pub async fn payload(
    masters: &dyn Masters,
    pod: &Pod,
    volume: &Volume,
    place: &Place,
    tokens: &mut Tokens,
    now: Timestamp,
) -> Result<Option<Payload>, String> {
    let namespace = view::namespace(pod);
    let mut payload = Payload::new();
    if let Some(source) = &volume.config_map {
        let optional = source.optional == Some(true);
        let map = found(masters.config_map(namespace, &source.name).await, optional)?;
        let items = source.items.as_deref();
        if let Some(map) = map {
            keys(bytes_of_map(map), items, mode(source.default_mode), optional, &mut payload)?;
        }
    } else if let Some(source) = &volume.secret {
        let optional = source.optional == Some(true);
        let name = source.secret_name.as_deref().unwrap_or_default();
        let secret = found(masters.secret(namespace, name).await, optional)?;
        if let Some(secret) = secret {
            let items = source.items.as_deref();
            keys(
                bytes_of_secret(secret),
                items,
                mode(source.default_mode),
                optional,
                &mut payload,
            )?;
        }
    } else if let Some(source) = &volume.downward_api {
        downward(pod, source.items.as_deref(), mode(source.default_mode), place, &mut payload)?;
    } else if let Some(source) = &volume.projected {
        let wanted = Projection { masters, pod, volume: &volume.name, place, now };
        wanted.collect(source, tokens, &mut payload).await?;
    } else {
        return Ok(None);
    }
    let total: usize = payload.values().map(|it| it.bytes.len()).sum();
    if total > BYTES_MAX {
        return Err(format!("{total} bytes are more than a volume of files may hold"));
    }
    Ok(Some(payload))
}

fn mode(said: Option<i32>) -> u32 {
    said.and_then(|it| u32::try_from(it).ok()).unwrap_or(FILE_MODE)
}

type Bytes = BTreeMap<String, Vec<u8>>;

fn bytes_of_map(map: ConfigMap) -> Bytes {
    let text = map.data.into_iter().flatten().map(|(key, text)| (key, text.into_bytes()));
    let binary = map.binary_data.into_iter().flatten().map(|(key, it)| (key, it.0));
    text.chain(binary).collect()
}

fn bytes_of_secret(secret: Secret) -> Bytes {
    secret.data.into_iter().flatten().map(|(key, it)| (key, it.0)).collect()
}

/// The chosen keys under their paths, or all under their names.
fn keys(
    mut from: Bytes,
    items: Option<&[KeyToPath]>,
    mode: u32,
    optional: bool,
    into: &mut Payload,
) -> Result<(), String> {
    let Some(items) = items.filter(|it| !it.is_empty()) else {
        into.extend(from.into_iter().map(|(key, bytes)| (key, File { bytes, mode })));
        return Ok(());
    };
    for item in items {
        let mode = item.mode.and_then(|it| u32::try_from(it).ok()).unwrap_or(mode);
        match from.remove(&item.key) {
            Some(bytes) => {
                into.insert(item.path.clone(), File { bytes, mode });
            }
            None if optional => {}
            None => return Err(format!("references non-existent key: {}", item.key)),
        }
    }
    Ok(())
}

fn downward(
    pod: &Pod,
    items: Option<&[DownwardAPIVolumeFile]>,
    mode: u32,
    place: &Place,
    into: &mut Payload,
) -> Result<(), String> {
    let nobody = Container::default();
    for item in items.unwrap_or_default() {
        let text = if let Some(it) = &item.field_ref {
            fields::field(pod, &it.field_path, place)?
        } else if let Some(it) = &item.resource_field_ref {
            fields::resource(pod, &nobody, it, place)?
        } else {
            continue;
        };
        let mode = item.mode.and_then(|it| u32::try_from(it).ok()).unwrap_or(mode);
        into.insert(item.path.clone(), File { bytes: text.into_bytes(), mode });
    }
    Ok(())
}

struct Projection<'a> {
    masters: &'a dyn Masters,
    pod: &'a Pod,
    volume: &'a str,
    place: &'a Place,
    now: Timestamp,
}

impl Projection<'_> {
    async fn collect(
        &self,
        source: &ProjectedVolumeSource,
        tokens: &mut Tokens,
        into: &mut Payload,
    ) -> Result<(), String> {
        let namespace = view::namespace(self.pod);
        let mode = mode(source.default_mode);
        for source in source.sources.iter().flatten() {
            if let Some(it) = &source.config_map {
                let optional = it.optional == Some(true);
                let map = found(self.masters.config_map(namespace, &it.name).await, optional)?;
                if let Some(map) = map {
                    keys(bytes_of_map(map), it.items.as_deref(), mode, optional, into)?;
                }
            } else if let Some(it) = &source.secret {
                let optional = it.optional == Some(true);
                let secret = found(self.masters.secret(namespace, &it.name).await, optional)?;
                if let Some(secret) = secret {
                    keys(bytes_of_secret(secret), it.items.as_deref(), mode, optional, into)?;
                }
            } else if let Some(it) = &source.downward_api {
                downward(self.pod, it.items.as_deref(), mode, self.place, into)?;
            } else if let Some(it) = &source.service_account_token {
                let token = self.token(it, tokens).await?;
                into.insert(it.path.clone(), File { bytes: token.into_bytes(), mode });
            } else if let Some(it) = &source.cluster_trust_bundle {
                let all = self.masters.trust_bundles().await;
                let all = all.map_err(|status| status.message().to_owned())?;
                let bytes = trust::anchors(&all, it)?;
                into.insert(it.path.clone(), File { bytes, mode });
            } else {
                return Err("a projection is of a kind that this node cannot make".into());
            }
        }
        Ok(())
    }

    async fn token(
        &self,
        source: &ServiceAccountTokenProjection,
        tokens: &mut Tokens,
    ) -> Result<String, String> {
        let account = view::spec(self.pod).service_account_name.clone().unwrap_or_default();
        let wanted = TokenWanted {
            account,
            audience: source.audience.clone().filter(|it| !it.is_empty()),
            seconds: source.expiration_seconds.unwrap_or(TOKEN_SECONDS),
        };
        let key = format!("{}/{}", self.volume, source.path);
        if let Some(held) = tokens.0.get(&key)
            && held.wanted == wanted
            && held.is_fresh(self.now)
        {
            return Ok(held.token.token.clone());
        }
        let token = self.masters.token(self.pod, &wanted).await;
        let token =
            token.map_err(|status| format!("failed to fetch token: {}", status.message()))?;
        let text = token.token.clone();
        tokens.0.insert(key, Held { wanted, token, since: self.now });
        Ok(text)
    }
}
