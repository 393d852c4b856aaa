//! How a bucket is reached and who asks: flags, AWS's environment variables, AWS's file of credentials.
//!
//! Keeps: flags win over the environment, the environment over the file. What is missing is said by
//! name, before anything is asked.
//! Never: shows a secret; its `Debug` is dots.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use clap::{Args, ValueEnum};
use serde::{Deserialize, Serialize};

use super::Error;
use super::transport::Roots;
use crate::pki;

/// Heading of the help.
pub const BUCKETS: &str = "Buckets (S3)";

/// What can be said. All of it is optional: what is left out is looked for elsewhere.
#[derive(Args, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub struct Access {
    /// Where buckets are served, as https://HOST[:PORT] [default: AWS in that region]
    #[arg(long, value_name = "URL", env = "AWS_ENDPOINT_URL_S3", help_heading = BUCKETS)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub s3_endpoint: Option<String>,

    /// The region of the bucket [default: AWS_DEFAULT_REGION, or us-east-1]
    #[arg(long, value_name = "REGION", env = "AWS_REGION", help_heading = BUCKETS)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub s3_region: Option<String>,

    /// Who asks [default: the profile AWS_PROFILE of ~/.aws/credentials]
    #[arg(long, value_name = "ID", env = "AWS_ACCESS_KEY_ID", help_heading = BUCKETS)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub s3_access_key_id: Option<String>,

    /// Its secret; better in the environment or in a file than on a command line
    #[arg(
        long,
        value_name = "SECRET",
        env = "AWS_SECRET_ACCESS_KEY",
        hide_env_values = true,
        help_heading = BUCKETS
    )]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub s3_secret_access_key: Option<Secret>,

    /// With credentials that last for a while only
    #[arg(
        long,
        value_name = "TOKEN",
        env = "AWS_SESSION_TOKEN",
        hide_env_values = true,
        help_heading = BUCKETS
    )]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub s3_session_token: Option<Secret>,

    /// Where the bucket's name stands in an address [default: path with an endpoint, else host]
    #[arg(long, value_name = "STYLE", env = "KONTIKI_S3_STYLE", help_heading = BUCKETS)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub s3_style: Option<Style>,

    /// The CA that the endpoint's certificate leads to [default: those that this system believes]
    #[arg(long, value_name = "FILE", env = "AWS_CA_BUNDLE", help_heading = BUCKETS)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub s3_ca: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Style {
    /// https://HOST/BUCKET/KEY
    Path,
    /// https://BUCKET.HOST/KEY
    Host,
}

/// Text that has no business in a log.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Secret(String);

impl Secret {
    pub(super) fn shown(&self) -> &str {
        &self.0
    }
}

impl FromStr for Secret {
    type Err = std::convert::Infallible;

    fn from_str(text: &str) -> Result<Secret, Self::Err> {
        Ok(Secret(text.to_owned()))
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("…")
    }
}

/// All of it, as it will be used.
pub(super) struct Ready {
    pub endpoint: Option<String>,
    pub region: String,
    pub id: String,
    pub secret: Secret,
    pub session: Option<Secret>,
    pub style: Style,
    pub roots: Roots,
}

impl Access {
    /// Fills in what was not said, by the environment that `variable` reads.
    pub(super) fn complete(
        &self,
        variable: &dyn Fn(&str) -> Option<String>,
    ) -> Result<Ready, Error> {
        let variable = |name: &str| variable(name).filter(|value| !value.is_empty());
        let endpoint = self.s3_endpoint.clone().or_else(|| variable("AWS_ENDPOINT_URL"));
        if let Some(endpoint) = &endpoint {
            check(endpoint)?;
        }
        let (id, secret, session) = match (&self.s3_access_key_id, &self.s3_secret_access_key) {
            (Some(id), Some(secret)) => (id.clone(), secret.clone(), self.s3_session_token.clone()),
            (Some(_), None) => return Err(missing("the secret (AWS_SECRET_ACCESS_KEY)")),
            (None, Some(_)) => return Err(missing("the access key's id (AWS_ACCESS_KEY_ID)")),
            (None, None) => of_file(&variable)?,
        };
        let roots = match &self.s3_ca {
            None => Roots::System,
            Some(path) => Roots::Bundle(
                pki::read(path).map_err(|error| Error::Refused(format!("--s3-ca: {error}")))?,
            ),
        };
        let region = self.s3_region.clone().or_else(|| variable("AWS_DEFAULT_REGION"));
        let style = if endpoint.is_some() { Style::Path } else { Style::Host };
        Ok(Ready {
            endpoint,
            region: region.unwrap_or_else(|| "us-east-1".into()),
            id,
            secret,
            session,
            style: self.s3_style.unwrap_or(style),
            roots,
        })
    }
}

fn check(endpoint: &str) -> Result<(), Error> {
    let uri = endpoint.parse::<http::Uri>().ok();
    let is_right = uri.is_some_and(|uri| {
        matches!(uri.scheme_str(), Some("http" | "https"))
            && uri.host().is_some()
            && matches!(uri.path(), "" | "/")
            && uri.query().is_none()
    });
    if is_right {
        return Ok(());
    }
    Err(Error::Refused(format!("--s3-endpoint {endpoint:?}: give https://HOST[:PORT]")))
}

fn missing(what: &str) -> Error {
    Error::Refused(format!("credentials for the bucket: {what} is missing"))
}

/// What AWS's own tools keep in a file.
fn of_file(
    variable: &dyn Fn(&str) -> Option<String>,
) -> Result<(String, Secret, Option<Secret>), Error> {
    let path = variable("AWS_SHARED_CREDENTIALS_FILE").map(PathBuf::from);
    let path = path.or_else(|| Some(Path::new(&variable("HOME")?).join(".aws/credentials")));
    let profile = variable("AWS_PROFILE").unwrap_or_else(|| "default".into());
    let nowhere = || {
        Error::Refused(
            "there are no credentials for the bucket; set AWS_ACCESS_KEY_ID and \
             AWS_SECRET_ACCESS_KEY, or write them to ~/.aws/credentials"
                .into(),
        )
    };
    let path = path.filter(|path| path.exists()).ok_or_else(nowhere)?;
    let text = pki::read(&path).map_err(|error| Error::Refused(error.to_string()))?;
    let value = |name: &str| value_in(&text, &profile, name);
    match (value("aws_access_key_id"), value("aws_secret_access_key")) {
        (Some(id), Some(secret)) => {
            Ok((id, Secret(secret), value("aws_session_token").map(Secret)))
        }
        _ => Err(Error::Refused(format!(
            "{} has no aws_access_key_id and aws_secret_access_key for the profile {profile:?} \
             (AWS_PROFILE)",
            path.display()
        ))),
    }
}

/// `name = value` below `[profile]`.
fn value_in(text: &str, profile: &str, name: &str) -> Option<String> {
    let mut within = false;
    for line in text.lines().map(str::trim) {
        if let Some(section) = line.strip_prefix('[') {
            within = section.trim_end_matches(']').trim() == profile;
        } else if within
            && let Some((found, value)) = line.split_once('=')
            && found.trim() == name
        {
            return Some(value.trim().to_owned());
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(access: &Access, environment: &[(&str, &str)]) -> String {
        match complete(access, environment) {
            Err(Error::Refused(reason)) => reason,
            Err(Error::Failed(reason)) => panic!("{reason}"),
            Ok(_) => panic!("{access:?} was taken"),
        }
    }

    fn complete(access: &Access, environment: &[(&str, &str)]) -> Result<Ready, Error> {
        access.complete(&|name| {
            let found = environment.iter().find(|(it, _)| *it == name);
            found.map(|(_, value)| (*value).to_owned())
        })
    }

    fn keys() -> Access {
        Access {
            s3_access_key_id: Some("id".into()),
            s3_secret_access_key: Some(Secret("secret".into())),
            ..Access::default()
        }
    }

    #[test]
    fn credentials_come_from_what_was_said_or_from_a_profile_of_the_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("credentials");
        std::fs::write(
            &path,
            "# of two\n[default]\naws_access_key_id = a\naws_secret_access_key=b\n\n[other]\n\
             aws_access_key_id=c\naws_secret_access_key = d=\naws_session_token = e\n",
        )
        .unwrap();
        let file = ("AWS_SHARED_CREDENTIALS_FILE", path.to_str().unwrap());
        let of_file = |more: &[(&str, &str)]| {
            let environment: Vec<_> = more.iter().copied().chain([file]).collect();
            let ready = complete(&Access::default(), &environment).ok().unwrap();
            (ready.id, ready.secret.0, ready.session.map(|it| it.0))
        };
        assert_eq!(of_file(&[]), ("a".into(), "b".into(), None));
        let other = of_file(&[("AWS_PROFILE", "other")]);
        assert_eq!(other, ("c".into(), "d=".into(), Some("e".into())));
        assert_eq!(complete(&keys(), &[file]).ok().unwrap().id, "id");
        let reason = refused(&Access::default(), &[file, ("AWS_PROFILE", "nobody")]);
        assert!(reason.contains("nobody"), "{reason}");
    }

    #[test]
    fn what_is_missing_or_cannot_be_meant_is_named() {
        assert!(refused(&Access::default(), &[]).contains("AWS_ACCESS_KEY_ID"));
        let half = Access { s3_secret_access_key: None, ..keys() };
        assert!(refused(&half, &[]).contains("AWS_SECRET_ACCESS_KEY"));
        let endpoint = Access { s3_endpoint: Some("minio:9000".into()), ..keys() };
        assert!(refused(&endpoint, &[]).contains("--s3-endpoint"));
        let ca = Access { s3_ca: Some("/nowhere/ca.crt".into()), ..keys() };
        assert!(refused(&ca, &[]).contains("/nowhere/ca.crt"));
    }

    #[test]
    fn an_endpoint_of_ones_own_has_the_bucket_in_the_path() {
        assert_eq!(complete(&keys(), &[]).ok().unwrap().style, Style::Host);
        let own = complete(&keys(), &[("AWS_ENDPOINT_URL", "http://127.0.0.1:9000")]);
        let own = own.ok().unwrap();
        assert_eq!(own.style, Style::Path);
        assert_eq!(own.region, "us-east-1");
    }

    #[test]
    fn a_secret_is_not_shown() {
        assert!(!format!("{:?}", keys()).contains("secret\""), "{:?}", keys());
        assert_eq!(format!("{:?}", Secret("secret".into())), "…");
    }
}
