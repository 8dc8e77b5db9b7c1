//! How messages of the public service become bytes: as the gRPC library does it, with smaller buffers.

use std::marker::PhantomData;

use prost::Message;
use tonic::codec::BufferSettings;
use tonic_prost::{ProstCodec, ProstDecoder, ProstEncoder};

/// A buffer is there as long as its call and grows as it has to. The library's 8 KiB would be most of what a watch costs
/// while nothing happens.
const BUFFER_BYTES: usize = 1 << 10;

/// Messages that are ready are put together up to so many bytes: the library's choice.
const SENT_TOGETHER_BYTES: usize = 32 << 10;

/// The codec of `api.KV`.
#[derive(Debug, Clone)]
pub struct Codec<T, U>(PhantomData<(T, U)>);

impl<T, U> Default for Codec<T, U> {
    fn default() -> Self {
        Self(PhantomData)
    }
}

impl<T, U> tonic::codec::Codec for Codec<T, U>
where
    T: Message + Send + 'static,
    U: Message + Default + Send + 'static,
{
    type Encode = T;
    type Decode = U;
    type Encoder = ProstEncoder<T>;
    type Decoder = ProstDecoder<U>;

    fn encoder(&mut self) -> Self::Encoder {
        ProstCodec::<T, U>::raw_encoder(settings())
    }

    fn decoder(&mut self) -> Self::Decoder {
        ProstCodec::<T, U>::raw_decoder(settings())
    }
}

fn settings() -> BufferSettings {
    BufferSettings::new(BUFFER_BYTES, SENT_TOGETHER_BYTES)
}
