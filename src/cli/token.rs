//! `kontiki token`: invitations to join.

use clap::{Args, Subcommand};
use http::{HeaderMap, Method};
use kontiki_api::cluster::wire::{PREFIX, Role, TokenCreated, TokenInfo, TokenRequest};

use super::operator::Operator;
use super::output::{Output, print, seconds, table};
use super::period::Period;
use crate::failure::Failure;

#[derive(Subcommand)]
pub enum Command {
    /// Create a token and print it; its secret is shown this once
    #[command(after_help = "\
Examples:
  kontiki token create --role master --ttl 1h --uses 1
  kontiki token create --role node --ttl 30d")]
    Create(Create),
    /// List the tokens that are valid
    List(List),
    /// Take a token back
    Revoke(Revoke),
}

#[derive(Args)]
pub struct Create {
    /// What its holder becomes: master or node
    #[arg(long, value_name = "ROLE", default_value = "node")]
    role: Role,
    /// How long it is valid
    #[arg(long, value_name = "TIME", default_value = "24h")]
    ttl: Period,
    /// How often it can be used [default: as often as one likes while it is valid]
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u64).range(1..))]
    uses: Option<u64>,
    #[command(flatten)]
    operator: Operator,
    #[command(flatten)]
    output: Output,
}

#[derive(Args)]
pub struct List {
    #[command(flatten)]
    operator: Operator,
    #[command(flatten)]
    output: Output,
}

#[derive(Args)]
pub struct Revoke {
    /// The token's id, or the token itself
    token: String,
    #[command(flatten)]
    operator: Operator,
}

impl Command {
    pub async fn run(self) -> Result<(), Failure> {
        match self {
            Command::Create(create) => create.run().await,
            Command::List(list) => list.run().await,
            Command::Revoke(revoke) => revoke.run().await,
        }
    }
}

impl Create {
    async fn run(self) -> Result<(), Failure> {
        let created = create(&self.operator, self.role, self.ttl, self.uses).await?;
        self.output.show(&created, |created| created.token.clone())
    }
}

/// Has a token created.
pub async fn create(
    operator: &Operator,
    role: Role,
    ttl: Period,
    uses: Option<u64>,
) -> Result<TokenCreated, Failure> {
    let ttl_s = i64::try_from(ttl.0.as_secs()).unwrap_or(i64::MAX);
    let request = TokenRequest { role, ttl_s, uses };
    let master = operator.master()?;
    Ok(master.post(&format!("{PREFIX}/tokens"), HeaderMap::new(), &request).await?)
}

impl List {
    async fn run(self) -> Result<(), Failure> {
        let tokens: Vec<TokenInfo> =
            self.operator.master()?.get(&format!("{PREFIX}/tokens")).await?;
        self.output.show(&tokens, |tokens| {
            let uses = |token: &TokenInfo| token.uses_left.map_or("any".into(), |n| n.to_string());
            let rows = tokens.iter().map(|token| {
                let expires = seconds(token.expires_in_s);
                vec![token.id.clone(), token.role.to_string(), uses(token), expires]
            });
            table(&["ID", "ROLE", "USES LEFT", "EXPIRES IN"], rows)
        })
    }
}

impl Revoke {
    async fn run(self) -> Result<(), Failure> {
        let id = self.token.rsplit("::").next().unwrap_or_default();
        let id = id.split('.').next().unwrap_or_default();
        let path = format!("{PREFIX}/tokens/{id}");
        self.operator.master()?.call(Method::DELETE, &path).await?;
        print(&format!("token {id} revoked"))
    }
}
