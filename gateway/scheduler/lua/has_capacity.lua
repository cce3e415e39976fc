-- Whether some account could take a call now. O(groups); says no more of a pool that is merely busy than of one that is broken.
-- Returns  decision: open, or unknown
if not meta.version then return reply({decision = 'unknown'}) end
local soonest, kind = outlook({n = 1}, false)
return reply({decision = soonest and soonest <= now and kind == 'busy' and 'open' or 'unknown'})
