-- Renew claims of running lines; one that has ended, or that another process has taken over, stays away.
-- KEYS[1]  claimed lines of the tenant, see claim_lines.lua
-- ARGV[1]  claim, milliseconds
-- ARGV[2..] claims: "BATCH LINE TOKEN"
-- Clock    the server's
local time = redis.call('TIME')
local until_ms = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000) + tonumber(ARGV[1])
for i = 2, #ARGV do redis.call('ZADD', KEYS[1], 'XX', until_ms, ARGV[i]) end
return 1
