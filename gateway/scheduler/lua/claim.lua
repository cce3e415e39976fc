-- Take what a waiting request was given: its call begins now.
-- ARGV[1]  id, ARGV[2] how long the lease lives without being renewed
-- Returns  JSON: decision "leased" (see lease.lua), "wait": it still waits, or "gone": it waits no longer
if not meta.version then return reply({decision = 'unknown'}) end
local id = ARGV[1]
local lease = lease_of(id)
if not lease or not lease.g then
  return reply({decision = redis.call('HEXISTS', K.places, id) == 1 and 'wait' or 'gone'})
end
return reply(claim(id, lease, now + tonumber(ARGV[2])))
