//! The keys that gossip is encrypted with (memberlist's keyring.go).
//!
//! One of them, the primary, encrypts; all of them are tried to decrypt, since a message does not say which one it needs.
//! That is how a cluster changes its key without a pause: install the new one everywhere, use it, remove the old one.

use std::fmt;
use std::sync::Arc;

use aes_gcm::aead::consts::U12;
use aes_gcm::aead::inout::InOutBuf;
use aes_gcm::aes::Aes192;
use aes_gcm::{AeadInOut, Aes128Gcm, Aes256Gcm, AesGcm, KeyInit, Nonce, Tag};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use zeroize::Zeroizing;

type Aes192Gcm = AesGcm<Aes192, U12>;

/// Why keys are not as they should be. Nothing has been changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyringError {
    /// Without a key nothing can be encrypted.
    #[error("a keyring needs at least one key")]
    Empty,
    /// AES knows three lengths.
    #[error("a key has 16, 24 or 32 bytes, not {0}")]
    Length(usize),
    /// Text that is not base64.
    #[error("a key is not written in base64")]
    Base64,
    /// A file that is not a JSON array of strings.
    #[error("a keyring file holds a JSON array of keys: {0}")]
    File(String),
    /// It has to be installed before it can be used.
    #[error("the key is not in the keyring")]
    NotInstalled,
    /// Another one has to be used before it can be removed.
    #[error("the primary key can't be removed")]
    Primary,
}

/// Some keys, of which the first one is the primary. Cheap to clone.
///
/// Invariants: there is at least one key, and none is there twice.
#[derive(Clone, PartialEq, Eq)]
pub struct Keyring {
    keys: Vec<Arc<Key>>,
}

impl Keyring {
    /// These keys, the primary first. One that is repeated counts once.
    pub fn new<K: AsRef<[u8]>>(keys: impl IntoIterator<Item = K>) -> Result<Self, KeyringError> {
        let mut keyring = Self { keys: Vec::new() };
        for key in keys {
            keyring.install(key.as_ref())?;
        }
        if keyring.keys.is_empty() { Err(KeyringError::Empty) } else { Ok(keyring) }
    }

    /// The keys in a file that Serf wrote, or [`to_file`](Self::to_file).
    pub fn from_file(text: &str) -> Result<Self, KeyringError> {
        let keys: Vec<String> = serde_json::from_str(text).map_err(|error| KeyringError::File(error.to_string()))?;
        let keys: Result<Vec<_>, _> = keys.iter().map(|key| key_from_text(key)).collect();
        Self::new(keys?)
    }

    /// What Serf writes into its keyring file: a JSON array of keys in base64, the primary first. Only the owner of the
    /// process should be able to read it.
    pub fn to_file(&self) -> String {
        let keys: Vec<String> = self.keys().map(|key| format!("  \"{}\"", key_to_text(key))).collect();
        format!("[\n{}\n]", keys.join(",\n"))
    }

    /// Adds a key, after the others. One that is there stays where it is.
    pub fn install(&mut self, key: &[u8]) -> Result<(), KeyringError> {
        let key = Key::new(key)?;
        if !self.keys.iter().any(|known| **known == key) {
            self.keys.push(Arc::new(key));
        }
        Ok(())
    }

    /// Makes a key the primary.
    pub fn use_key(&mut self, key: &[u8]) -> Result<(), KeyringError> {
        let at = self.keys.iter().position(|known| *known.bytes == key).ok_or(KeyringError::NotInstalled)?;
        let key = self.keys.remove(at);
        self.keys.insert(0, key);
        Ok(())
    }

    /// Forgets a key. One that is not there already is forgotten.
    pub fn remove(&mut self, key: &[u8]) -> Result<(), KeyringError> {
        if self.primary() == key {
            return Err(KeyringError::Primary);
        }
        self.keys.retain(|known| *known.bytes != key);
        Ok(())
    }

    /// The keys, the primary first.
    pub fn keys(&self) -> impl ExactSizeIterator<Item = &[u8]> {
        self.keys.iter().map(|key| key.bytes.as_slice())
    }

    /// The one that encrypts.
    pub fn primary(&self) -> &[u8] {
        &self.keys[0].bytes
    }

    /// Encrypts with the primary key, in place.
    pub(super) fn encrypt(&self, nonce: &[u8; 12], associated: &[u8], data: &mut [u8]) -> [u8; 16] {
        self.keys[0].encrypt(nonce, associated, data)
    }

    /// Decrypts with the key that fits, if one does.
    pub(super) fn decrypt(
        &self,
        nonce: &[u8; 12],
        associated: &[u8],
        ciphertext: &[u8],
        tag: &[u8; 16],
    ) -> Option<Vec<u8>> {
        self.keys.iter().find_map(|key| {
            let mut data = ciphertext.to_vec();
            key.decrypt(nonce, associated, &mut data, tag).then_some(data)
        })
    }
}

/// How many there are, and no more.
impl fmt::Debug for Keyring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Keyring({} keys)", self.keys.len())
    }
}

/// A key, in the form that flags, files and answers have.
pub fn key_to_text(key: &[u8]) -> String {
    BASE64.encode(key)
}

/// The key that a text stands for. Its length is not looked at.
pub fn key_from_text(text: &str) -> Result<Vec<u8>, KeyringError> {
    BASE64.decode(text).map_err(|_| KeyringError::Base64)
}

/// A key, and what AES makes of it, which is done once. Both are overwritten when nobody has the key any more.
struct Key {
    bytes: Zeroizing<Vec<u8>>,
    cipher: Cipher,
}

impl PartialEq for Key {
    fn eq(&self, other: &Self) -> bool {
        self.bytes == other.bytes
    }
}

impl Eq for Key {}

enum Cipher {
    Aes128(Box<Aes128Gcm>),
    Aes192(Box<Aes192Gcm>),
    Aes256(Box<Aes256Gcm>),
}

impl Key {
    fn new(bytes: &[u8]) -> Result<Self, KeyringError> {
        let wrong_length = |_| KeyringError::Length(bytes.len());
        let cipher = match bytes.len() {
            16 => Cipher::Aes128(Box::new(Aes128Gcm::new_from_slice(bytes).map_err(wrong_length)?)),
            24 => Cipher::Aes192(Box::new(Aes192Gcm::new_from_slice(bytes).map_err(wrong_length)?)),
            32 => Cipher::Aes256(Box::new(Aes256Gcm::new_from_slice(bytes).map_err(wrong_length)?)),
            length => return Err(KeyringError::Length(length)),
        };
        Ok(Self { bytes: Zeroizing::new(bytes.to_vec()), cipher })
    }

    fn encrypt(&self, nonce: &[u8; 12], associated: &[u8], data: &mut [u8]) -> [u8; 16] {
        let (nonce, data) = (&Nonce::from(*nonce), InOutBuf::from(data));
        let tag = match &self.cipher {
            Cipher::Aes128(cipher) => cipher.encrypt_inout_detached(nonce, associated, data),
            Cipher::Aes192(cipher) => cipher.encrypt_inout_detached(nonce, associated, data),
            Cipher::Aes256(cipher) => cipher.encrypt_inout_detached(nonce, associated, data),
        };
        tag.expect("AES-GCM encrypts up to 64 GiB").into()
    }

    /// Whether it was encrypted with this key. If not, the data are as they were or worthless.
    fn decrypt(&self, nonce: &[u8; 12], associated: &[u8], data: &mut [u8], tag: &[u8; 16]) -> bool {
        let (nonce, data, tag) = (&Nonce::from(*nonce), InOutBuf::from(data), &Tag::from(*tag));
        let result = match &self.cipher {
            Cipher::Aes128(cipher) => cipher.decrypt_inout_detached(nonce, associated, data, tag),
            Cipher::Aes192(cipher) => cipher.decrypt_inout_detached(nonce, associated, data, tag),
            Cipher::Aes256(cipher) => cipher.decrypt_inout_detached(nonce, associated, data, tag),
        };
        result.is_ok()
    }
}
