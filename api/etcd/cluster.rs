//! The Cluster service, over the replica's membership.
//!
//! etcd's members are added before they are started and have no name until they are; here a member brings
//! its own id when it joins. So `MemberAdd` gives an id for the member that is to come, as a learner: with
//! Kontiki every member is filled before it votes, and asks to be promoted by itself.

use kontiki_raft::membership::Member;
use kontiki_raft::{NodeId, Peer};
use kontiki_storage::revision::Revision;
use tonic::{Request, Response, Status};

use super::front::{Caller, Front, Service};
use super::status;
use super::wire::etcdserverpb as pb;
use super::wire::etcdserverpb::cluster_server::Cluster;

#[derive(Clone)]
pub(crate) struct ClusterService(pub(crate) Front);

#[tonic::async_trait]
impl Cluster for ClusterService {
    async fn member_add(
        &self,
        request: Request<pb::MemberAddRequest>,
    ) -> Result<Response<pb::MemberAddResponse>, Status> {
        let caller = self.0.enter(&request, Service::Voters)?;
        self.0.administrator(&caller).await?;
        let peer = Peer { address: address(&request.into_inner().peer_ur_ls)?, ..Peer::default() };
        let id = NodeId(rand::random_range(1..=u64::MAX));
        self.0.replica().add_learner(id, peer.clone()).await.map_err(status::of)?;
        Ok(Response::new(pb::MemberAddResponse {
            header: Some(self.header()),
            member: Some(member(Member { id, peer, voter: false })),
            members: self.members(),
        }))
    }

    async fn member_remove(
        &self,
        request: Request<pb::MemberRemoveRequest>,
    ) -> Result<Response<pb::MemberRemoveResponse>, Status> {
        let caller = self.0.enter(&request, Service::Voters)?;
        self.0.administrator(&caller).await?;
        let id = NodeId(request.into_inner().id);
        self.0.replica().remove(id).await.map_err(status::of)?;
        let header = Some(self.header());
        Ok(Response::new(pb::MemberRemoveResponse { header, members: self.members() }))
    }

    async fn member_update(
        &self,
        request: Request<pb::MemberUpdateRequest>,
    ) -> Result<Response<pb::MemberUpdateResponse>, Status> {
        let caller = self.0.enter(&request, Service::Voters)?;
        self.0.administrator(&caller).await?;
        let pb::MemberUpdateRequest { id, peer_ur_ls } = request.into_inner();
        let id = NodeId(id);
        let members = self.0.replica().members();
        let known = members.into_iter().find(|member| member.id == id);
        let known = known.ok_or_else(status::member_not_found)?;
        let peer = Peer { address: address(&peer_ur_ls)?, ..known.peer };
        self.0.replica().update(id, peer).await.map_err(status::of)?;
        let header = Some(self.header());
        Ok(Response::new(pb::MemberUpdateResponse { header, members: self.members() }))
    }

    async fn member_list(
        &self,
        request: Request<pb::MemberListRequest>,
    ) -> Result<Response<pb::MemberListResponse>, Status> {
        self.0.enter(&request, Service::Voters)?;
        if request.get_ref().linearizable {
            self.0.replica().read_barrier().await.map_err(status::of)?;
        }
        let header = Some(self.header());
        Ok(Response::new(pb::MemberListResponse { header, members: self.members() }))
    }

    async fn member_promote(
        &self,
        request: Request<pb::MemberPromoteRequest>,
    ) -> Result<Response<pb::MemberPromoteResponse>, Status> {
        let caller = self.0.enter(&request, Service::Voters)?;
        self.0.administrator(&caller).await?;
        let id = NodeId(request.into_inner().id);
        self.0.replica().promote(id).await.map_err(status::of)?;
        let header = Some(self.header());
        Ok(Response::new(pb::MemberPromoteResponse { header, members: self.members() }))
    }
}

impl ClusterService {
    /// As etcd's: the membership has no place in the history of keys.
    fn header(&self) -> pb::ResponseHeader {
        self.0.header_at(Revision::ZERO)
    }

    fn members(&self) -> Vec<pb::Member> {
        self.0.replica().members().into_iter().map(member).collect()
    }
}

impl Front {
    /// Lets only those pass who may rule over everyone's affairs, by what is agreed on now.
    pub(crate) async fn administrator(&self, caller: &Caller) -> Result<(), Status> {
        let view = self.view(false).await?;
        let (_, who) = self.judge(caller, &view)?;
        who.may_administer()
    }
}

fn member(member: Member) -> pb::Member {
    let Member { id, peer, voter } = member;
    let peer_urls = match peer.address.is_empty() {
        true => Vec::new(),
        false => vec![format!("https://{}", peer.address)],
    };
    pb::Member {
        id: id.0,
        name: peer.name,
        peer_ur_ls: peer_urls,
        client_ur_ls: peer.client_urls,
        is_learner: !voter,
    }
}

/// Where a member's peer port is reached: `host:port` of the one URL that is given.
fn address(urls: &[String]) -> Result<String, Status> {
    let [url] = urls else {
        return Err(status::bad_urls());
    };
    let uri: http::Uri = url.parse().map_err(|_| status::bad_urls())?;
    let schemed = matches!(uri.scheme_str(), Some("http" | "https"));
    let bare = matches!(uri.path(), "" | "/") && uri.query().is_none();
    match uri.authority() {
        Some(authority) if schemed && bare && authority.port_u16().is_some() => {
            Ok(authority.to_string())
        }
        _ => Err(status::bad_urls()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_url_with_host_and_port_is_an_address() {
        let of = |urls: &[&str]| {
            let urls: Vec<String> = urls.iter().map(|url| (*url).to_owned()).collect();
            address(&urls).ok()
        };
        assert_eq!(of(&["https://10.0.0.1:2380"]), Some("10.0.0.1:2380".to_owned()));
        assert_eq!(of(&["http://host.example:1/"]), Some("host.example:1".to_owned()));
        let bad: [&[&str]; 6] = [
            &[],
            &["https://a:1", "https://b:1"],
            &["10.0.0.1:2380"],
            &["https://host"],
            &["unix:///run/x"],
            &["https://host:1/path"],
        ];
        for urls in bad {
            assert_eq!(of(urls), None, "{urls:?}");
        }
    }
}
