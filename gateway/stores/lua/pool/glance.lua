-- Whether some account could take a call now. O(1); says no more of a pool that is merely busy than of one that is broken.
-- Returns  verdict: open, or unknown
local is_open = meta.version and redis.call('ZCARD', K.ready) > 0 and gate() > 0
return reply({verdict = is_open and 'open' or 'unknown'})
