//! Addresses of the pool for clients whose packets are translated (PROTOCOL.md section 11): a
//! packet is delivered when its client has one, or gets one now, which is recorded with what else
//! changes.

use std::net::Ipv6Addr;

use super::Server;
use super::exchange::{Effects, record};
use crate::handoff::change::Change;
use crate::handoff::entry::TableKey;
use crate::handoff::pool::{ClientAddresses, Coming, Nameless, PoolShareOfBoth};
use crate::handoff::stats::DropReason;

impl Server {
    /// From now on, clients whose packets are translated have addresses of this share.
    pub fn give_addresses(&mut self, share: PoolShareOfBoth) {
        self.shared.addresses = Some(ClientAddresses { share, last: None });
    }
}

impl Effects<'_> {
    /// Whether a client whose packet is to be translated has an address, or gets one now. Where
    /// none is left for it, it is served as where nothing is delivered.
    ///
    /// # Errors
    /// It gets one in a moment, or nothing can be recorded now.
    pub fn gives_address(&mut self, client: Ipv6Addr) -> Result<bool, DropReason> {
        let (second, now, nat64) = (self.batch.coarse.second, self.now(), self.table.nat64);
        // Without a pool, whoever translates says who has an address.
        let Some(addresses) = &mut self.shared.addresses else { return Ok(true) };
        if addresses.last == Some((client, second)) {
            return Ok(true);
        }
        let mut share = addresses.share.lock();
        if let Some(reason) = self.batch.frozen.filter(|_| !share.has(client)) {
            return Err(reason);
        }
        let coming = share.come_for_packet(client, nat64, now);
        drop(share);
        match coming {
            Ok(coming) => {
                addresses.last = Some((client, second));
                if let Coming::New(address, client) = coming {
                    let (block, change) =
                        (TableKey::block_of(address), Change::Named { address, client });
                    record(&self.shared.stats, self.outbox, block, change);
                }
                Ok(true)
            }
            Err(why) => {
                self.shared.stats.add(why.counter(), 1);
                match why {
                    Nameless::Full | Nameless::Share => Ok(false),
                    Nameless::Unrecorded => Err(DropReason::ClientUnnamed),
                }
            }
        }
    }
}
