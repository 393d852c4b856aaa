//! Names of places, through the room's door. Buckets are tested against a real server (`tests/it/buckets`).

use super::{Object, Place};

#[test]
fn a_place_is_a_file_or_a_name_in_a_bucket() {
    let bucket = |text: &str| match text.parse::<Place>() {
        Ok(Place::Bucket(object)) => object,
        other => panic!("{text}: {other:?}"),
    };
    let object = bucket("s3://backups/prod/a.kontiki");
    assert_eq!((&*object.bucket, &*object.key), ("backups", "prod/a.kontiki"));
    assert_eq!(object.name(), "a.kontiki");
    assert_eq!(object.to_string(), "s3://backups/prod/a.kontiki");
    assert_eq!(bucket("s3://backups"), bucket("s3://backups/"));
    assert_eq!(bucket("s3://backups").join("x").key, "x");
    assert_eq!(bucket("s3://backups/prod/").join("x").key, "prod/x");
    assert_eq!("a.kontiki".parse(), Ok(Place::File("a.kontiki".into())));
    assert_eq!("./s3:/x".parse(), Ok(Place::File("./s3:/x".into())));
}

#[test]
fn names_that_cannot_be_meant_are_refused() {
    for text in ["s3://", "s3:///a", "s3://b/a//c", "s3://b/../c", "s3://b c/d", "s3://b/a\nb"] {
        assert!(text.parse::<Place>().is_err(), "{text:?}");
    }
    assert!("backups/prod".parse::<Object>().unwrap_err().contains("s3://BUCKET/PREFIX"));
    assert!("".parse::<Place>().is_err());
}
