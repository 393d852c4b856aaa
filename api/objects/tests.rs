//! Through the door: objects over a member in memory.

use std::sync::Arc;

use kontiki_storage::revision::Revision;
use serde_json::{Value, json};

use super::{ChangeKind, Committed, Objects, Write};
use crate::error::Reason;
use crate::kinds::kind::Stored;
use crate::objects::feed::Form;
use crate::sandbox::Sandbox;

fn things() -> Stored {
    Stored {
        group: "example.com".into(),
        resource: "things".into(),
        version: "v1".into(),
        kind: "Thing".into(),
    }
}

fn thing(name: &str, size: i64) -> Value {
    json!({"kind": "Thing", "apiVersion": "example.com/v1", "metadata": {"name": name},
        "spec": {"size": size}})
}

async fn objects() -> (Sandbox, Objects) {
    let sandbox = Sandbox::start().await;
    let objects = sandbox.server.road().objects().clone();
    (sandbox, objects)
}

#[tokio::test]
async fn a_write_holds_only_against_the_revision_it_was_made_from() {
    let (_sandbox, objects) = objects().await;
    let of = things();
    let one = objects.put(&of, "n", "a", &thing("a", 1), Revision::ZERO).await.unwrap();
    let twice = objects.put(&of, "n", "a", &thing("a", 2), Revision::ZERO).await.unwrap_err();
    assert!(twice.is(Reason::AlreadyExists));
    let two = objects.put(&of, "n", "a", &thing("a", 2), one.revision()).await.unwrap();
    assert!(two.revision() > one.revision());
    let stale = objects.put(&of, "n", "a", &thing("a", 3), one.revision()).await.unwrap_err();
    assert!(stale.is(Reason::Conflict));
    assert!(objects.delete(&of, "n", "a", one.revision()).await.is_err());
    let there = objects.get(&of, "n", "a").unwrap().unwrap();
    assert_eq!(there.value().unwrap()["spec"]["size"], 2);
    objects.delete(&of, "n", "a", two.revision()).await.unwrap();
    assert!(objects.get(&of, "n", "a").unwrap().is_none());
}

#[tokio::test]
async fn writes_of_a_commit_happen_at_one_revision_or_not_at_all() {
    let (_sandbox, objects) = objects().await;
    let of = things();
    let put = |name: &str, expected| Write::put(&of, "n", name, &thing(name, 1), expected);
    let both = [put("a", Revision::ZERO), put("b", Revision::ZERO)];
    let Committed::At(revision) = objects.commit(&both).await.unwrap() else { panic!("it holds") };
    let (all, _) = objects.list(&of, Some("n")).unwrap();
    assert!(all.iter().all(|it| it.revision() == revision) && all.len() == 2);
    let mixed = [put("c", Revision::ZERO), put("a", Revision::ZERO)];
    let Committed::Outrun(there) = objects.commit(&mixed).await.unwrap() else {
        panic!("a is there")
    };
    assert!(there[0].is_none());
    assert_eq!(there[1].as_ref().unwrap().revision(), revision);
    assert!(objects.get(&of, "n", "c").unwrap().is_none());
}

#[tokio::test]
async fn readers_of_a_feed_share_what_was_decoded_and_encoded() {
    let (_sandbox, objects) = objects().await;
    let of = things();
    let from = objects.revision();
    let (mut one, mut other) = (objects.feed(&of, from), objects.feed(&of, from));
    let created = objects.put(&of, "n", "a", &thing("a", 1), Revision::ZERO).await.unwrap();
    let changed = objects.put(&of, "n", "a", &thing("a", 2), created.revision()).await.unwrap();
    let gone = objects.delete(&of, "n", "a", changed.revision()).await.unwrap();
    let mut seen = Vec::new();
    while seen.len() < 3 {
        seen.extend(one.next().await.unwrap());
    }
    let kinds: Vec<_> = seen.iter().map(|it| (it.kind, it.revision())).collect();
    assert_eq!(
        kinds,
        [
            (ChangeKind::Added, created.revision()),
            (ChangeKind::Modified, changed.revision()),
            (ChangeKind::Deleted, gone),
        ]
    );
    assert_eq!(seen[1].previous.as_ref().unwrap().value().unwrap()["spec"]["size"], 1);
    let last = seen[2].object.value().unwrap();
    assert_eq!(
        (&last["spec"]["size"], &last["metadata"]["resourceVersion"]),
        (&json!(2), &json!(gone.to_string()))
    );
    let mut same = Vec::new();
    while same.len() < 3 {
        same.extend(other.next().await.unwrap());
    }
    assert!(seen.iter().zip(&same).all(|(one, other)| Arc::ptr_eq(one, other)));
    let form = Form { group: of.group.clone(), version: of.version.clone(), encoding: 0 };
    let first = seen[0].encoded(form.clone(), || Ok("made".into())).unwrap();
    let again = same[0].encoded(form, || panic!("it is made once")).unwrap();
    assert_eq!(first, again);
}

#[tokio::test]
async fn a_feed_from_what_is_forgotten_is_cut() {
    let (_sandbox, objects) = objects().await;
    let of = things();
    let one = objects.put(&of, "n", "a", &thing("a", 1), Revision::ZERO).await.unwrap();
    objects.put(&of, "n", "a", &thing("a", 2), one.revision()).await.unwrap();
    objects.compact(objects.revision()).await.unwrap();
    objects.compact(objects.revision()).await.unwrap();
    let mut feed = objects.feed(&of, one.revision().previous());
    assert!(feed.next().await.unwrap_err().is(Reason::Expired));
    assert!(feed.next().await.unwrap_err().is(Reason::Expired), "and stays so");
}

#[tokio::test]
async fn many_short_lived_objects_share_a_lease() {
    let (_sandbox, objects) = objects().await;
    let (one, two) = (objects.expiring(60).await.unwrap(), objects.expiring(60).await.unwrap());
    assert_eq!(one, two);
    assert_ne!(one, objects.expiring(120).await.unwrap());
    let write = Write::put(&things(), "n", "a", &thing("a", 1), Revision::ZERO).with_lease(one);
    objects.commit(&[write]).await.unwrap();
    objects.replica().lease_revoke(one).await.unwrap();
    assert!(objects.get(&things(), "n", "a").unwrap().is_none());
    let again = Write::put(&things(), "n", "a", &thing("a", 1), Revision::ZERO).with_lease(one);
    assert!(objects.commit(&[again]).await.is_err());
    assert_ne!(objects.expiring(60).await.unwrap(), one, "a lease that is gone is forgotten");
}
