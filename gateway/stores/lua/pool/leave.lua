-- Leave the queue, or give up a lease under which nothing was sent: the client, its patience or its process is gone. What
-- it was given goes to the next.
-- ARGV[1]  id
-- Returns  JSON: verdict "left"
if not meta.version then return reply({verdict = 'unknown'}) end
local id = ARGV[1]
local place, lease = place_of(id), lease_of(id)
if place then leave(place) end
if lease then
  local a = give_back(id, lease, true)
  if a then put_back(a) end
end
if place or lease then dispatch() end
return reply({verdict = 'left'})
