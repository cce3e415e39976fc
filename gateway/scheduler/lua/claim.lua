-- Claim the lease assigned to a waiting request: its call starts now.
-- ARGV[1]  ID, ARGV[2] lifetime of the lease without renewal
-- Returns  JSON: decision "leased" (see lease.lua), "wait": not assigned yet, or "gone": no such request or lease
if not meta.version then return reply({decision = 'unknown'}) end
local id = ARGV[1]
local lease = lease_of(id)
if not lease or not lease.g then
  return reply({decision = redis.call('HEXISTS', K.places, id) == 1 and 'wait' or 'gone'})
end
return reply(claim(id, lease, now + tonumber(ARGV[2])))
