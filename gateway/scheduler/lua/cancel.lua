-- Cancel waiting requests or unsent leases: the client disconnected, its wait ended, or its process is shutting down. An
-- assigned lease goes to the next waiting request.
-- ARGV[1..] IDs
-- Returns  JSON: decision "left"
if not meta.version then return reply({decision = 'unknown'}) end
for _, id in ipairs(ARGV) do
  local place, lease = place_of(id), lease_of(id)
  if place then leave(place) end
  if lease then
    local a = give_back(id, lease, true)
    if a then put_back(a) end
  end
  local flow = place and place.f or lease and lease.q and lease.q .. ':' .. lease.o
  if flow then retract(flow) end
  is_freed = is_freed or place ~= nil  -- its place may have reserved an account
end
dispatch_freed()
return reply({decision = 'left'})
