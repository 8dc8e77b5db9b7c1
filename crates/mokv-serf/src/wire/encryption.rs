//! The layer of encryption (memberlist's security.go): a version, a nonce, the ciphertext of AES-GCM, its tag.
//!
//! Version 1 is what is written. Version 0, which pads the plaintext to blocks of 16 bytes, is what nodes send whose
//! memberlist speaks protocol 1; it is only read.

use rand::Rng as _;
use rand::rngs::StdRng;

use super::codec::OpenError;
use super::keyring::Keyring;

const VERSION_PADDED: u8 = 0;
const VERSION: u8 = 1;
const NONCE_BYTES: usize = 12;
const TAG_BYTES: usize = 16;
const BLOCK_BYTES: usize = 16;

/// How much longer a plaintext becomes.
pub(super) const OVERHEAD: usize = 1 + NONCE_BYTES + TAG_BYTES;

/// Appends the plaintext, encrypted.
pub(super) fn encrypt(out: &mut Vec<u8>, plaintext: &[u8], associated: &[u8], keyring: &Keyring, rng: &mut StdRng) {
    let mut nonce = [0; NONCE_BYTES];
    rng.fill_bytes(&mut nonce);
    out.push(VERSION);
    out.extend_from_slice(&nonce);
    let begin = out.len();
    out.extend_from_slice(plaintext);
    let tag = keyring.encrypt(&nonce, associated, &mut out[begin..]);
    out.extend_from_slice(&tag);
}

/// The plaintext of all of these bytes.
pub(super) fn decrypt(bytes: &[u8], associated: &[u8], keyring: &Keyring) -> Result<Vec<u8>, OpenError> {
    let (&version, rest) = bytes.split_first().ok_or(OpenError::Plaintext)?;
    if version > VERSION {
        return Err(OpenError::Plaintext);
    }
    let (nonce, rest) = rest.split_first_chunk().ok_or(OpenError::Decryption)?;
    let (ciphertext, tag) = rest.split_last_chunk().ok_or(OpenError::Decryption)?;
    let mut plaintext = keyring.decrypt(nonce, associated, ciphertext, tag).ok_or(OpenError::Decryption)?;
    if version == VERSION_PADDED {
        plaintext.truncate(unpadded_length(&plaintext).ok_or(OpenError::Decryption)?);
    }
    Ok(plaintext)
}

/// PKCS7: each byte of the padding is its length, 1 to 16.
fn unpadded_length(plaintext: &[u8]) -> Option<usize> {
    let &padding = plaintext.last()?;
    let length = plaintext.len().checked_sub(padding.into())?;
    let honest = (1..=BLOCK_BYTES).contains(&padding.into()) && plaintext[length..].iter().all(|&byte| byte == padding);
    honest.then_some(length)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As a node of protocol 1 encrypts.
    fn encrypt_padded(padded: &[u8], keyring: &Keyring) -> Vec<u8> {
        let (nonce, mut data) = ([5; NONCE_BYTES], padded.to_vec());
        let tag = keyring.encrypt(&nonce, b"", &mut data);
        [&[VERSION_PADDED], &nonce[..], &data, &tag].concat()
    }

    #[test]
    fn the_padding_of_version_0_is_taken_off() {
        let keyring = Keyring::new([[1; 16]]).expect("a key");
        let decrypted = |padded: &[u8]| decrypt(&encrypt_padded(padded, &keyring), b"", &keyring);
        assert_eq!(decrypted(&[&b"message"[..], &[9; 9]].concat()), Ok(b"message".to_vec()));
        assert_eq!(decrypted(&[&b"message and more"[..], &[16; 16]].concat()), Ok(b"message and more".to_vec()));
        assert_eq!(decrypted(&[16; 16]), Ok(Vec::new()));
        assert_eq!(decrypted(b""), Err(OpenError::Decryption));
        assert_eq!(decrypted(&[&b"message"[..], &[0; 9]].concat()), Err(OpenError::Decryption));
        assert_eq!(decrypted(&[&b"message"[..], &[17; 25]].concat()), Err(OpenError::Decryption));
        assert_eq!(decrypted(&[&b"message"[..], &[8; 1], &[9; 8]].concat()), Err(OpenError::Decryption));
        assert_eq!(decrypted(&[9; 3]), Err(OpenError::Decryption));
    }

    #[test]
    fn what_is_too_short_or_of_another_version_is_refused() {
        let keyring = Keyring::new([[1; 16]]).expect("a key");
        assert_eq!(decrypt(b"", b"", &keyring), Err(OpenError::Plaintext));
        assert_eq!(decrypt(&[2; 40], b"", &keyring), Err(OpenError::Plaintext));
        assert_eq!(decrypt(&[1; OVERHEAD - 1], b"", &keyring), Err(OpenError::Decryption));
    }
}
