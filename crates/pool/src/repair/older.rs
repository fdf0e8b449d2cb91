//! A store whose copies of registers are older than the others' was away, or was put back from a backup. Where nobody remembers
//! what it missed, its listing tells: what belongs there and is not listed is put back like what was left out.

use std::sync::Arc;

use super::scrub::list_one;
use crate::chunk::{Inventory, ShardSet};
use crate::io::PoolContext;
use crate::stores::shard_on;
use windlass_base::Result;

const LIVE_PAGE: usize = 1024;

/// Returns how many shards the stores lack whose copies of registers are older than the others'. A store that can't be listed
/// whole stays to be looked through.
pub async fn look(context: &Arc<PoolContext>, inventory: &dyn Inventory) -> Result<usize> {
    let n = context.layout().n();
    let mut lacking = 0;
    for member in context.members().into_iter().filter(|m| m.older().is_some() && m.standing().usable()) {
        let (listing, ended) = list_one(&member, n).await;
        ended?;
        let mut after = None;
        loop {
            let page = inventory.live_after(after, LIVE_PAGE).await?;
            for id in &page {
                let shard = shard_on(id, member.index(), n);
                if !listing.present.get(id).copied().unwrap_or_default().has(shard) {
                    context.missing_shards().found(*id, ShardSet::default().with(shard));
                    lacking += 1;
                }
            }
            match page.last() {
                Some(last) if page.len() >= LIVE_PAGE => after = Some(*last),
                _ => break,
            }
        }
        member.was_looked_through();
        tracing::info!(store = %member.url(), lacking, "looked through, as it was away or put back");
    }
    Ok(lacking)
}
