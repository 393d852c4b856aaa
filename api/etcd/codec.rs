//! Bytes of messages and messages of bytes, in buffers as large as what is in them.
//!
//! tonic's own begins each call with eight kibibytes on either side. Here they would stay: a key or a value is
//! a slice of the buffer it arrived in, for as long as the log, the ring of recent events or a watch holds it;
//! and a stream that waits keeps both of its buffers for as long as it lives.
//!
//! Keeps: a message is encoded into a buffer that has room for all of it, however large it is.

use std::marker::PhantomData;

use prost::Message;
use tonic::Status;
use tonic::codec::{BufferSettings, EncodeBuf, Encoder};
use tonic_prost::{ProstCodec, ProstDecoder};

/// Room that a buffer has before anything is in it: for what says no more than yes.
const BUFFER_BYTES: usize = 64;
/// A stream with several messages at hand sends so much of them at a time.
const SENT_BYTES: usize = 32 << 10;

pub(crate) struct Codec<T, U>(PhantomData<(T, U)>);

impl<T, U> Default for Codec<T, U> {
    fn default() -> Codec<T, U> {
        Codec(PhantomData)
    }
}

impl<T, U> tonic::codec::Codec for Codec<T, U>
where
    T: Message + Send + 'static,
    U: Message + Default + Send + 'static,
{
    type Encode = T;
    type Decode = U;
    type Encoder = Whole<T>;
    type Decoder = ProstDecoder<U>;

    fn encoder(&mut self) -> Whole<T> {
        Whole(PhantomData)
    }

    fn decoder(&mut self) -> ProstDecoder<U> {
        ProstCodec::<T, U>::raw_decoder(BufferSettings::new(BUFFER_BYTES, SENT_BYTES))
    }
}

/// Encodes each message at one go.
pub(crate) struct Whole<T>(PhantomData<T>);

impl<T: Message> Encoder for Whole<T> {
    type Item = T;
    type Error = Status;

    fn encode(&mut self, message: T, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        buffer.reserve(message.encoded_len());
        message.encode_raw(buffer);
        Ok(())
    }

    fn buffer_settings(&self) -> BufferSettings {
        BufferSettings::new(BUFFER_BYTES, SENT_BYTES)
    }
}
