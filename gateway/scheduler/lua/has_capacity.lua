-- Whether some account could take a call now; a busy pool and a broken one get the same reply. O(groups).
-- Returns  decision: open, or unknown
local soonest, reason = outlook({n = 1}, false)
return reply({decision = soonest and soonest <= now and reason == 'busy' and 'open' or 'unknown'})
