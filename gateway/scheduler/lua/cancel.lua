-- Cancel waiting requests or unsent leases: the client disconnected, its wait ended, or its process is shutting down.
-- An assigned lease goes to the next waiting request.
-- ARGV[1..] IDs
-- Returns  JSON: decision "cancelled"
for _, id in ipairs(ARGV) do
  local waiter, lease = waiter_of(id), lease_of(id)
  if waiter then leave(waiter) end
  local a = lease and give_back(id, lease, true)
  if a then put_back(a) end
  if waiter or lease then retract(waiter and waiter.f or lease.q .. ':' .. lease.o) end
  is_freed = is_freed or waiter ~= nil  -- an account may have been reserved for it
end
dispatch_freed()
return reply({decision = 'cancelled'})
