//! What works when nothing fails.

use std::time::Duration;

use mokv_client::KeyRange;

use crate::harness::Setup;

#[test]
fn three_hosts_form_a_cluster_and_followers_read_what_was_written() {
    Setup::default().run(|world| async move {
        let leader = world.leader().await;
        for index in 0..3 {
            let client = world.client_of([index]);
            client.set(format!("key-{index}"), format!("value-{index}")).await.expect("set");
            for reader in 0..3 {
                let read = world.client_of([reader]).get(format!("key-{index}")).await.expect("get").expect("is there");
                assert_eq!(read.value, format!("value-{index}"), "written through {index}, read from {reader}");
            }
        }
        let mut list = world.client_of([(leader + 1) % 3]).list(KeyRange::all()).await.expect("list");
        let mut keys = Vec::new();
        while let Some(pair) = list.next().await.expect("pair") {
            keys.push(pair.key);
        }
        assert_eq!(keys, ["key-0", "key-1", "key-2"]);
        assert_eq!(world.client().members().await.expect("members").len(), 3);
        world.settle(Duration::from_secs(1)).await;
    });
}
