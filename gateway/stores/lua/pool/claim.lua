-- Take what a waiting request was given. The call begins now: the account's minute is counted from here.
-- ARGV[1]  id, ARGV[2] how long the lease lives without being renewed
-- Returns  JSON: verdict "leased" (see lease.lua), "wait": it still waits, or "gone": it waits no longer
if not meta.version then return reply({verdict = 'unknown'}) end
local id = ARGV[1]
local lease = lease_of(id)
if not lease or not lease.g then
  return reply({verdict = redis.call('HEXISTS', K.places, id) == 1 and 'wait' or 'gone'})
end
local a = account(lease.a)
cross_out(a, lease.t, lease.n)
write_down(a, lease.n)
lease.t, lease.g = now, nil
redis.call('HDEL', K.grants, id)
redis.call('HSET', touch('leased'), id, cmsgpack.pack(lease))
redis.call('ZADD', touch('leases'), now + tonumber(ARGV[2]), id)
count_call(lease.r > 0)
put_back(a)
return reply(leased('leased', id, lease))
