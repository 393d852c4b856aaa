//! The codec against frames as the protocol has them, in whatever pieces.

use bytes::{BufMut as _, BytesMut};
use proptest::prelude::*;

use super::*;

/// A frame as a runtime may send it, and the event it is.
fn frame() -> impl Strategy<Value = (Vec<u8>, Option<Event>)> {
    let id = 1_u32..100;
    let bytes = prop::collection::vec(any::<u8>(), 0..300);
    let with_kind = |kind: u16, body: Vec<u8>, flags: u8| {
        let mut frame = BytesMut::new();
        frame.put_u16(0x8003);
        frame.put_u16(kind);
        frame.put_u32(u32::from(flags) << 24 | u32::try_from(body.len()).unwrap());
        frame.extend_from_slice(&body);
        frame.to_vec()
    };
    prop_oneof![
        (id.clone(), bytes.clone()).prop_map(|(stream, bytes)| {
            let event = Event::Data { stream, bytes: bytes.clone().into(), fin: false };
            (data(stream, &bytes).to_vec(), Some(event))
        }),
        id.clone().prop_map(|stream| {
            let event = Event::Data { stream, bytes: Default::default(), fin: true };
            (fin(stream).to_vec(), Some(event))
        }),
        any::<u32>().prop_map(|id| (ping(id).to_vec(), Some(Event::Ping { id }))),
        (id.clone(), bytes.clone()).prop_map(move |(stream, headers)| {
            let body = [&stream.to_be_bytes()[..], &headers].concat();
            (with_kind(2, body, 0), Some(Event::Opened { stream, fin: false }))
        }),
        id.prop_map(move |stream| {
            let body = [stream.to_be_bytes(), 5_u32.to_be_bytes()].concat();
            (with_kind(3, body, 0), Some(Event::Reset { stream }))
        }),
        Just((with_kind(7, vec![0; 8], 0), Some(Event::Going))),
        // Settings, windows and what is not known.
        (prop::sample::select(vec![4_u16, 8, 9, 77]), bytes)
            .prop_map(move |(kind, body)| (with_kind(kind, body, 0), None)),
    ]
}

/// Neighbouring pieces of one stream as one.
fn joined(events: Vec<Event>) -> Vec<Event> {
    let mut all: Vec<Event> = Vec::new();
    for event in events {
        if let (
            Some(Event::Data { stream, bytes, fin }),
            Event::Data { stream: again, bytes: more, fin: last },
        ) = (all.last_mut(), &event)
            && stream == again
            && !*fin
        {
            *bytes = [&bytes[..], more].concat().into();
            *fin = *last;
            continue;
        }
        all.push(event);
    }
    all
}

proptest! {
    #[test]
    fn frames_are_the_same_in_whatever_pieces_they_come(
        frames in prop::collection::vec(frame(), 0..20),
        piece in 1_usize..200,
    ) {
        let wire: Vec<u8> = frames.iter().flat_map(|(bytes, _)| bytes.clone()).collect();
        let wanted = frames.into_iter().filter_map(|(_, event)| event).collect();
        let mut reader = Reader::default();
        let mut events = Vec::new();
        for piece in wire.chunks(piece) {
            reader.add(piece);
            while let Some(event) = reader.next().unwrap() {
                events.push(event);
            }
        }
        prop_assert_eq!(joined(events), joined(wanted));
    }

    #[test]
    fn whatever_comes_is_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..2000)) {
        let mut reader = Reader::default();
        reader.add(&bytes);
        let mut left = bytes.len() + 1;
        while let Ok(Some(_)) = reader.next() {
            // Each event takes at least one byte.
            prop_assert!(left > 0);
            left -= 1;
        }
    }
}

#[test]
fn headers_of_all_streams_are_one_zlib_stream_with_the_dictionary_named() {
    let mut headers = Headers::default();
    let first = headers.syn_stream(1, &[("streamType", "error")]);
    let second = headers.syn_stream(3, &[("streamType", "stdin"), ("x", "")]);
    // A control frame of version 3 and type 1 that opens stream 1; then zlib's head, once.
    assert_eq!(first[..4], [0x80, 3, 0, 1]);
    assert_eq!(first[8..12], [0, 0, 0, 1]);
    assert_eq!(first[18..24], [0x78, 0xbb, 0xe3, 0xc6, 0xa7, 0xc2]);
    assert_eq!(second[8..12], [0, 0, 0, 3]);
    // The rest is plain deflate: what no dictionary is needed for is read without one.
    let deflated = [&first[24..], &second[18..]].concat();
    let mut plain = vec![0; 200];
    let mut inflate = flate2::Decompress::new(false);
    inflate.decompress(&deflated, &mut plain, flate2::FlushDecompress::Sync).unwrap();
    plain.truncate(usize::try_from(inflate.total_out()).unwrap());
    let wanted = b"\0\0\0\x01\0\0\0\x0astreamtype\0\0\0\x05error\
                   \0\0\0\x02\0\0\0\x0astreamtype\0\0\0\x05stdin\0\0\0\x01x\0\0\0\0";
    assert_eq!(plain, wanted);
}

#[test]
fn another_protocol_is_refused_at_its_first_frame() {
    for bytes in [&b"\x80\x02\0\x01\0\0\0\0"[..], b"\x80\x03\0\x01\0\xff\xff\xff"] {
        let mut reader = Reader::default();
        reader.add(bytes);
        assert!(reader.next().is_err());
    }
}
