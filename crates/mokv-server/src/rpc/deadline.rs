//! Until when a call is worth working on.

use std::time::Duration;

use tokio::time::Instant;
use tonic::metadata::MetadataMap;

const GRPC_TIMEOUT: &str = "grpc-timeout";

/// The part of its time that a call leaves for the way of the answer: one in so many. Without it the caller, who counts
/// the same time, has hung up before it can be told why.
const ANSWER_PART: u32 = 10;

/// The way of the answer takes no longer than this, on a busy machine either.
const ANSWER_TIME_MAX: Duration = Duration::from_millis(200);

/// When to give up: what the caller says, and not later than `max` from now, which also holds for a caller that says
/// nothing.
pub(super) fn of_call(metadata: &MetadataMap, max: Duration) -> Instant {
    Instant::now() + caller_timeout(metadata).map_or(max, |timeout| max.min(answer_before(timeout)))
}

/// When to give up an operation of a stream whose caller waits so many milliseconds; 0: it does not say.
pub(super) fn of_operation(timeout_ms: u32, max: Duration) -> Instant {
    let timeout = Duration::from_millis(timeout_ms.into());
    Instant::now() + if timeout.is_zero() { max } else { max.min(answer_before(timeout)) }
}

/// When the caller gives up, if it says so. For streams, which may last as long as the caller likes.
pub(super) fn of_caller(metadata: &MetadataMap) -> Option<Instant> {
    caller_timeout(metadata).map(|timeout| Instant::now() + answer_before(timeout))
}

fn answer_before(timeout: Duration) -> Duration {
    timeout - ANSWER_TIME_MAX.min(timeout / ANSWER_PART)
}

/// The `grpc-timeout` of a call: at most 8 digits and a unit. One that is malformed is none, as for the gRPC library.
fn caller_timeout(metadata: &MetadataMap) -> Option<Duration> {
    let text = metadata.get(GRPC_TIMEOUT)?.to_str().ok()?;
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.len() > 8 || !digits.bytes().all(|digit| digit.is_ascii_digit()) {
        return None;
    }
    let count: u64 = digits.parse().ok()?;
    match unit {
        "H" => Some(Duration::from_secs(count * 3600)),
        "M" => Some(Duration::from_secs(count * 60)),
        "S" => Some(Duration::from_secs(count)),
        "m" => Some(Duration::from_millis(count)),
        "u" => Some(Duration::from_micros(count)),
        "n" => Some(Duration::from_nanos(count)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn metadata(timeout: &'static str) -> MetadataMap {
        let mut metadata = MetadataMap::new();
        metadata.insert(GRPC_TIMEOUT, timeout.parse().expect("ascii"));
        metadata
    }

    #[test]
    fn timeouts_are_read_as_grpc_defines_them() {
        for (text, timeout) in [
            ("2H", Some(Duration::from_secs(7200))),
            ("3M", Some(Duration::from_secs(180))),
            ("99999999S", Some(Duration::from_secs(99_999_999))),
            ("250m", Some(Duration::from_millis(250))),
            ("5u", Some(Duration::from_micros(5))),
            ("0n", Some(Duration::ZERO)),
            ("100000000S", None),
            ("5", None),
            ("m", None),
            ("+5m", None),
            ("5x", None),
            ("", None),
        ] {
            assert_eq!(caller_timeout(&metadata(text)), timeout, "{text}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_ends_before_its_caller_gives_up() {
        let now = Instant::now();
        let max = Duration::from_secs(10);
        assert_eq!(of_call(&MetadataMap::new(), max), now + max);
        assert_eq!(of_call(&metadata("1H"), max), now + max);
        assert_eq!(of_call(&metadata("4S"), max), now + Duration::from_millis(3800));
        assert_eq!(of_call(&metadata("100m"), max), now + Duration::from_millis(90));
        assert_eq!(of_operation(0, max), now + max);
        assert_eq!(of_operation(4000, max), now + Duration::from_millis(3800));
        assert_eq!(of_operation(100, max), now + Duration::from_millis(90));
        assert_eq!(of_operation(u32::MAX, max), now + max);
        assert_eq!(of_caller(&MetadataMap::new()), None);
        assert_eq!(of_caller(&metadata("1H")), Some(now + Duration::from_secs(3600) - ANSWER_TIME_MAX));
    }
}
